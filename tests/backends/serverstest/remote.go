package serverstest

import (
	"net"
	"testing"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/tests/backends/faultproxy"
	"github.com/shardstream/shardstream/tests/backends/servers"
)

// remote starts another cluster, of one gateway and one target, with the proxy in front of the target: that has the data,
// and clients go there for it.
func remote(t testing.TB) *Server {
	t.Helper()
	s := &Server{}
	c := clustertest.Start(t, clustertest.Options{Targets: 1, Address: func(id string) (listen, advertise string) {
		if id == "gateway-1" {
			return "127.0.0.1:0", ""
		}
		listen = freeAddr(t)
		proxy, err := faultproxy.NewHTTP("", listen)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(proxy.Close)
		s.HTTP = proxy
		return listen, proxy.Addr
	}})
	s.Server = &servers.Server{Kind: backend.Remote, Addr: c.Gateways[0].Addr()}
	return s
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Backend is a bucket of the server as the backend of one of the cluster's, through the proxy. Its secret is named after
// the kind of the server, where that asks for one.
func (s *Server) Backend(bucket, prefix string) *api.Backend {
	b := &api.Backend{URL: s.URLAt(s.ProxyAddr(), bucket), Endpoint: s.EndpointAt(s.ProxyAddr())}
	switch {
	case prefix != "":
		b.URL += "/" + prefix
	case s.Kind == backend.HTTP:
		b.URL += "/" // of an index page
	}
	if s.Kind == backend.S3 {
		b.Region = servers.S3Region
	}
	if s.Secret() != nil {
		b.Secret = s.Kind
	}
	return b
}
