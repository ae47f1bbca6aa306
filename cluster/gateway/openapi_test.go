package gateway_test

import (
	"log/slog"
	"maps"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/gateway"
	"github.com/shardstream/shardstream/cluster/heal"
	"github.com/shardstream/shardstream/cluster/telemetry"
)

func writeFile(t testing.TB, path string, data []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, data, 0o600))
}

func TestOpenAPIDescribesTheRoutes(t *testing.T) {
	g := gateway.New(gateway.Config{
		ID: "gateway-1", Metrics: telemetry.New(telemetry.Identity{Node: "gateway-1", Role: api.RoleGateway}), Logger: slog.Default(),
	})
	g.ServeETLs()
	g.ServeStreams(nil)
	g.ServeRebalance(heal.NewOverseer(nil, slog.Default()))
	g.ServeJobs()
	recorder := httptest.NewRecorder()
	g.ServeHTTP(recorder, httptest.NewRequest("GET", "/v1/openapi.yaml", nil))
	var document struct {
		Paths map[string]map[string]any
	}
	require.NoError(t, yaml.Unmarshal(recorder.Body.Bytes(), &document))
	var described []string
	for path, methods := range document.Paths {
		for method := range methods {
			if method != "parameters" {
				described = append(described, strings.ToUpper(method)+" "+path)
			}
		}
	}
	slices.Sort(described)
	routes := g.Routes()
	for i, r := range routes {
		routes[i] = strings.ReplaceAll(r, "...}", "}")
	}
	slices.Sort(routes)
	assert.Equal(t, described, routes)
}

// Every field of a document is described, and nothing else is.
func TestOpenAPIDescribesTheFields(t *testing.T) {
	recorder := httptest.NewRecorder()
	gateway.New(gateway.Config{Metrics: telemetry.New(telemetry.Identity{}), Logger: slog.Default()}).
		ServeHTTP(recorder, httptest.NewRequest("GET", "/v1/openapi.yaml", nil))
	var document struct {
		Components struct {
			Schemas map[string]struct{ Properties map[string]any }
		}
	}
	require.NoError(t, yaml.Unmarshal(recorder.Body.Bytes(), &document))
	for name, value := range map[string]any{
		"Backend": api.Backend{}, "Bucket": api.Bucket{}, "CacheSpec": api.CacheSpec{}, "Cached": api.Cached{}, "Disk": api.Disk{}, "ErasureCode": api.EC{}, "FsckReport": api.FsckReport{}, "Finding": api.Finding{},
		"Health": api.Health{}, "Location": api.Location{}, "Map": api.Map{}, "Node": api.Node{}, "Object": api.Object{},
		"ObjectList": api.ObjectList{}, "Rebalance": api.Rebalance{}, "Status": api.Status{},
	} {
		var fields []string
		for field := range reflect.TypeOf(value).Fields() {
			fields = append(fields, strings.Split(field.Tag.Get("json"), ",")[0])
		}
		assert.ElementsMatch(t, fields, slices.Collect(maps.Keys(document.Components.Schemas[name].Properties)), name)
	}
}
