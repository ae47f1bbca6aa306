package telemetry

import (
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/mem"
	"github.com/shirou/gopsutil/v4/process"

	"github.com/shardstream/shardstream/cluster/api"
)

// processCollector reports this process under the names that Prometheus' own libraries use, so that
// common dashboards find them.
type processCollector struct {
	pid                                  int32
	cpu, resident, virtual, fds, threads *prometheus.Desc
	started, children                    *prometheus.Desc
}

func newProcessCollector() *processCollector {
	return &processCollector{
		pid:      int32(os.Getpid()),
		cpu:      desc("process_cpu_seconds_total", "User and system CPU time of the node's process."),
		resident: desc("process_resident_memory_bytes", "Resident memory of the node's process."),
		virtual:  desc("process_virtual_memory_bytes", "Virtual memory of the node's process."),
		fds:      desc("process_open_fds", "Open file descriptors."),
		threads:  desc("process_threads", "Threads of the operating system."),
		started:  desc("process_start_time_seconds", "Start of the process, in seconds since the epoch."),
		children: desc("shardstream_worker_processes", "Child processes of the node, such as ETL workers."),
	}
}

func (c *processCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect leaves out what the system does not tell; a scrape with a gap is better than none.
func (c *processCollector) Collect(ch chan<- prometheus.Metric) {
	self, err := process.NewProcess(c.pid)
	if err != nil {
		return
	}
	if t, err := self.Times(); err == nil {
		ch <- prometheus.MustNewConstMetric(c.cpu, prometheus.CounterValue, t.User+t.System)
	}
	if m, err := self.MemoryInfo(); err == nil {
		ch <- gaugeMetric(c.resident, float64(m.RSS))
		ch <- gaugeMetric(c.virtual, float64(m.VMS))
	}
	if n, err := self.NumFDs(); err == nil {
		ch <- gaugeMetric(c.fds, float64(n))
	}
	if n, err := self.NumThreads(); err == nil {
		ch <- gaugeMetric(c.threads, float64(n))
	}
	if ms, err := self.CreateTime(); err == nil {
		ch <- gaugeMetric(c.started, float64(ms)/1000)
	}
	// Children returns an error where there are none.
	children, _ := self.Children()
	ch <- gaugeMetric(c.children, float64(len(children)))
}

// hostCollector reports the machine's memory and CPU.
type hostCollector struct {
	memSize, memAvailable, cpu *prometheus.Desc
}

func newHostCollector() *hostCollector {
	return &hostCollector{
		memSize:      desc("shardstream_host_memory_size_bytes", "Memory of the host."),
		memAvailable: desc("shardstream_host_memory_available_bytes", "Memory of the host that is available to new work."),
		cpu:          desc("shardstream_host_cpu_seconds_total", "CPU time of the host, all cores, by mode.", "mode"),
	}
}

func (c *hostCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c *hostCollector) Collect(ch chan<- prometheus.Metric) {
	if m, err := mem.VirtualMemory(); err == nil {
		ch <- gaugeMetric(c.memSize, float64(m.Total))
		ch <- gaugeMetric(c.memAvailable, float64(m.Available))
	}
	times, err := cpu.Times(false)
	if err != nil || len(times) == 0 {
		return
	}
	t := times[0]
	for mode, seconds := range map[string]float64{
		"user": t.User, "system": t.System, "idle": t.Idle, "iowait": t.Iowait, "steal": t.Steal,
	} {
		ch <- prometheus.MustNewConstMetric(c.cpu, prometheus.CounterValue, seconds, mode)
	}
}

// diskCollector reports a node's disks: the room on their file systems, and the traffic of the
// device below where the system counts it.
type diskCollector struct {
	usage func() []api.Disk
}

var (
	diskSize    = desc("shardstream_disk_size_bytes", "Size of the file system that a disk lies on.", "disk")
	diskUsed    = desc("shardstream_disk_used_bytes", "Bytes used on the file system that a disk lies on.", "disk")
	diskUp      = desc("shardstream_disk_up", "1 while the disk is in use, 0 when it was taken out.", "disk")
	diskRead    = desc("shardstream_disk_read_bytes_total", "Bytes read from the device below a disk, by everybody.", "disk", "device")
	diskWritten = desc("shardstream_disk_written_bytes_total", "Bytes written to the device below a disk, by everybody.", "disk", "device")
)

func (c *diskCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{diskSize, diskUsed, diskUp, diskRead, diskWritten} {
		ch <- d
	}
}

func (c *diskCollector) Collect(ch chan<- prometheus.Metric) {
	disks := c.usage()
	devices := devicesByMount()
	traffic, _ := disk.IOCounters() // absent in some containers
	for _, d := range disks {
		ch <- gaugeMetric(diskSize, float64(d.Capacity), d.ID)
		ch <- gaugeMetric(diskUsed, float64(d.Used), d.ID)
		up := 0.0
		if !d.Out() && d.State != api.StateDown {
			up = 1
		}
		ch <- gaugeMetric(diskUp, up, d.ID)
		device := deviceOf(devices, d.Path)
		if io, ok := traffic[device]; ok {
			ch <- prometheus.MustNewConstMetric(diskRead, prometheus.CounterValue, float64(io.ReadBytes), d.ID, device)
			ch <- prometheus.MustNewConstMetric(diskWritten, prometheus.CounterValue, float64(io.WriteBytes), d.ID, device)
		}
	}
}

// devicesByMount maps mount points to device names ("/data" to "nvme0n1p2").
func devicesByMount() map[string]string {
	partitions, err := disk.Partitions(false)
	if err != nil {
		return nil
	}
	devices := make(map[string]string, len(partitions))
	for _, p := range partitions {
		devices[p.Mountpoint] = filepath.Base(p.Device)
	}
	return devices
}

// deviceOf is the device of the mount point nearest above path, "" where none is known.
func deviceOf(devices map[string]string, path string) string {
	path, err := filepath.Abs(path)
	if err != nil {
		return ""
	}
	for {
		if device, ok := devices[path]; ok {
			return device
		}
		up := filepath.Dir(path)
		if up == path {
			return ""
		}
		path = up
	}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

func gaugeMetric(d *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}
