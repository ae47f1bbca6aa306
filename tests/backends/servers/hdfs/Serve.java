import java.io.File;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hdfs.MiniDFSCluster;

/** An HDFS of one process: java -cp 'lib/*' Serve.java FOLDER NAMENODE-PORT DATANODE-HOST:PORT. It ends when it is killed. */
public class Serve {
    public static void main(String[] args) throws Exception {
        Configuration conf = new Configuration();
        conf.set(MiniDFSCluster.HDFS_MINIDFS_BASEDIR, new File(args[0]).getAbsolutePath());
        conf.setBoolean("dfs.permissions.enabled", false);
        conf.set("dfs.datanode.address", args[2]);
        conf.set("dfs.datanode.http.address", "127.0.0.1:0");
        conf.set("dfs.datanode.ipc.address", "127.0.0.1:0");
        MiniDFSCluster cluster = new MiniDFSCluster.Builder(conf)
                .numDataNodes(1)
                .checkDataNodeAddrConfig(true)
                .nameNodePort(Integer.parseInt(args[1]))
                .build();
        cluster.waitActive();
        System.out.println("ready");
        Thread.sleep(Long.MAX_VALUE);
    }
}
