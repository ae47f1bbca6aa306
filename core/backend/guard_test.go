package backend_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/shardstream/shardstream/core/backend"
)

func guard(t testing.TB, allow ...string) *backend.Guard {
	t.Helper()
	networks, err := backend.ParseAllow(allow)
	require.NoError(t, err)
	return backend.NewGuard(networks)
}

func TestGuardRefusesWhatIsNotOnTheInternet(t *testing.T) {
	for _, address := range []string{
		"0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
		"169.254.169.254", "169.254.0.1", "100.64.0.1", "100.127.255.255", "192.0.0.8", "192.0.2.1", "198.18.0.1", "198.19.255.255",
		"198.51.100.7", "203.0.113.9", "192.88.99.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
		"::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "3fff::1",
		"2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "fec0::1", "100::1", "64:ff9b:1::1", "4000::1",
		"::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::127.0.0.1", "::10.1.1.1",
		"64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::10.0.0.1", "2002:7f00:1::1", "2002:a9fe:a9fe::1", "2002:c0a8:101::",
	} {
		err := guard(t).Check(netip.MustParseAddr(address))
		require.Equal(t, backend.Forbidden, backend.KindOf(err), address)
		require.ErrorContains(t, err, "backend_allow")
	}
}

func TestGuardLetsTheInternetThrough(t *testing.T) {
	for _, address := range []string{
		"1.1.1.1", "8.8.8.8", "52.216.0.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "192.0.1.1", "223.255.255.1", "11.0.0.1",
		"2606:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1",
	} {
		require.NoError(t, guard(t).Check(netip.MustParseAddr(address)), address)
	}
	require.Error(t, guard(t).Check(netip.Addr{}))
}

func TestGuardAllows(t *testing.T) {
	g := guard(t, "10.1.0.0/16", "127.0.0.1", "fd00::/8", "::ffff:192.168.7.7")
	for address, allowed := range map[string]bool{
		"10.1.2.3": true, "10.2.0.1": false, "127.0.0.1": true, "127.0.0.2": false, "fd00::7": true, "fc00::7": false,
		"::ffff:10.1.0.1": true, "64:ff9b::10.1.0.1": true, "::ffff:10.2.0.1": false, "192.168.7.7": true,
	} {
		require.Equal(t, allowed, g.Check(netip.MustParseAddr(address)) == nil, address)
	}
}

func TestAllowFaultsAreAllListed(t *testing.T) {
	_, err := backend.ParseAllow([]string{"10.0.0.0/8", "ten", "10.0.0.0/40", "", "fe80::1%eth0"})
	for _, text := range []string{`"ten"`, `"10.0.0.0/40"`, `""`, "eth0"} {
		require.ErrorContains(t, err, text)
	}
	require.NotContains(t, err.Error(), `"10.0.0.0/8"`)
}

// No private IPv4 address gets through in any of the ways in which IPv6 can hold one.
func TestEmbeddedAddressesAreSeen(t *testing.T) {
	g := guard(t)
	rapid.Check(t, func(t *rapid.T) {
		v4 := [4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "v4"))
		refused := g.Check(netip.AddrFrom4(v4)) != nil
		var nat64, sixToFour [16]byte
		copy(nat64[:], []byte{0, 0x64, 0xff, 0x9b})
		copy(nat64[12:], v4[:])
		copy(sixToFour[:], []byte{0x20, 0x02, v4[0], v4[1], v4[2], v4[3]})
		copy(sixToFour[6:], rapid.SliceOfN(rapid.Byte(), 10, 10).Draw(t, "rest"))
		mapped := netip.AddrFrom16(netip.AddrFrom4(v4).As16())
		for _, address := range []netip.Addr{netip.AddrFrom16(nat64), netip.AddrFrom16(sixToFour), mapped} {
			if got := g.Check(address) != nil; got != refused {
				t.Fatalf("%v: refused %v, want %v", address, got, refused)
			}
		}
	})
}

func TestCheckHost(t *testing.T) {
	for host, refused := range map[string]bool{
		"127.0.0.1": true, "127.0.0.1:80": true, "[::1]:80": true, "[::1]": true, "::1": true, "8.8.8.8:53": false,
		"example.org": false, "localhost:80": false, "metadata": false, // names are looked at when they are dialled
	} {
		require.Equal(t, refused, guard(t).CheckHost(host) != nil, host)
	}
}

func TestGuardChecksWhatItDials(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	require.NoError(t, err)
	for _, host := range []string{"127.0.0.1", "localhost", "::ffff:127.0.0.1"} {
		_, err := guard(t).DialContext(t.Context(), "tcp", net.JoinHostPort(host, port))
		require.Equal(t, backend.Forbidden, backend.KindOf(err), "%s: %v", host, err)
		connection, err := guard(t, "127.0.0.0/8").DialContext(t.Context(), "tcp", net.JoinHostPort(host, port))
		require.NoError(t, err, host)
		require.NoError(t, connection.Close())
	}
	_, err = guard(t).DialContext(t.Context(), "tcp", "no-such-host.invalid:80")
	require.Error(t, err)
}

// client is one of a backend that is behind a guard and follows redirects.
func client(t *testing.T, allow ...string) *http.Client {
	t.Helper()
	c := backend.Config{Dial: guard(t, allow...).DialContext}
	client, err := c.HTTPClient()
	require.NoError(t, err)
	client.CheckRedirect = backend.Redirect
	t.Cleanup(client.CloseIdleConnections)
	return client
}

func get(ctx context.Context, client *http.Client, method, at string, header http.Header) (string, error) {
	request, err := http.NewRequestWithContext(ctx, method, at, http.NoBody)
	if err != nil {
		return "", err
	}
	request.Header = header
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func TestARedirectToTheNodeItselfGetsNowhere(t *testing.T) {
	asked := false
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer inside.Close()
	at, err := url.Parse(inside.URL)
	require.NoError(t, err)
	outside := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.1:"+at.Port()+"/latest/meta-data", http.StatusFound)
	}))
	var config net.ListenConfig
	outside.Listener, err = config.Listen(t.Context(), "tcp", "127.0.0.2:0")
	require.NoError(t, err)
	outside.Start()
	defer outside.Close()
	_, err = get(t.Context(), client(t, "127.0.0.2"), http.MethodGet, outside.URL, nil)
	require.Equal(t, backend.Forbidden, backend.KindOf(err), "%v", err)
	require.False(t, asked)
}

func TestProxiesOfTheEnvironmentAreNotUsed(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	c := backend.Config{}
	transport, err := c.Transport()
	require.NoError(t, err)
	require.Nil(t, transport.Proxy)
	c.EnvProxy = true
	transport, err = c.Transport()
	require.NoError(t, err)
	require.NotNil(t, transport.Proxy)
}

func TestCredentialsStayWithTheirOrigin(t *testing.T) {
	var there http.Header
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		there = r.Header.Clone()
		if strings.HasPrefix(r.URL.Path, "/back") {
			http.Redirect(w, r, "http://"+r.URL.Query().Get("to")+"/end", http.StatusTemporaryRedirect)
		}
	}))
	defer other.Close()
	var here http.Header
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		here = r.Header.Clone()
		switch r.URL.Path {
		case "/other":
			http.Redirect(w, r, other.URL+"/x?y=z", http.StatusTemporaryRedirect)
		case "/back":
			http.Redirect(w, r, other.URL+"/back?to="+r.Host, http.StatusTemporaryRedirect)
		case "/same":
			http.Redirect(w, r, "/end", http.StatusTemporaryRedirect)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusTemporaryRedirect)
		}
	}))
	defer server.Close()
	header := func() http.Header {
		return http.Header{
			"Authorization": {"Bearer canary"}, "Cookie": {"canary=1"}, "X-Amz-Security-Token": {"canary"}, "X-Ms-Anything": {"canary"},
			"Range": {"bytes=1-2"}, "If-Match": {`"tag"`},
		}
	}
	c := client(t, "127.0.0.1")
	_, err := get(t.Context(), c, http.MethodGet, server.URL+"/other?secret=canary", header())
	require.NoError(t, err)
	require.Equal(t, "bytes=1-2", there.Get("Range"))
	require.Equal(t, `"tag"`, there.Get("If-Match"))
	for name, values := range there {
		require.NotContains(t, strings.Join(values, " "), "canary", name)
	}
	_, err = get(t.Context(), c, http.MethodGet, server.URL+"/same", header())
	require.NoError(t, err)
	require.Equal(t, "Bearer canary", here.Get("Authorization"))
	_, err = get(t.Context(), c, http.MethodGet, server.URL+"/back", header())
	require.NoError(t, err)
	require.Empty(t, here.Get("Authorization"), "what another origin has sent back is not trusted either")

	_, err = get(t.Context(), c, http.MethodGet, server.URL+"/loop", header())
	require.ErrorContains(t, err, "redirects")
	there = nil
	_, err = get(t.Context(), c, http.MethodPut, server.URL+"/other", header())
	require.ErrorContains(t, err, "another origin")
	require.Nil(t, there)
}

func TestNoRedirectFromHTTPSToHTTP(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	safe := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	defer safe.Close()
	c := backend.Config{Insecure: true}
	client, err := c.HTTPClient()
	require.NoError(t, err)
	client.CheckRedirect = backend.Redirect
	_, err = get(t.Context(), client, http.MethodGet, safe.URL, nil)
	require.ErrorContains(t, err, "anybody could read")
	require.False(t, backend.KindOf(err).Passes())
}
