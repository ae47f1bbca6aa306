package etl_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl"
)

func TestValidate(t *testing.T) {
	function := etl.Definition{Name: "f", Source: "def transform(s): return s"}
	container := etl.Definition{Name: "c", Kind: etl.KindContainer, Image: "localhost/echo:1"}
	server := etl.Definition{Name: "s", Kind: etl.KindServer, URL: "http://{host}:8080"}
	command := etl.Definition{Name: "c", Kind: etl.KindCommand, Command: []string{"tr", "a", "b"}}
	for _, good := range []etl.Definition{function, container, server, command} {
		require.NoError(t, good.Validate(), good.Name)
	}
	with := func(d etl.Definition, change func(*etl.Definition)) etl.Definition { change(&d); return d }
	for _, c := range []struct {
		def  etl.Definition
		want string
	}{
		{with(function, func(d *etl.Definition) { d.Name = "Aé" }), "etl name"},
		{with(function, func(d *etl.Definition) { d.Kind = "wasm" }), `etl kind: "wasm": use function, container, server or command`},
		{with(function, func(d *etl.Definition) { d.Source = "" }), "etl source: is empty"},
		{with(function, func(d *etl.Definition) { d.Pickle = []byte("x") }), "takes the place of source"},
		{with(function, func(d *etl.Definition) { d.Level = "shard" }), "etl level"},
		{with(function, func(d *etl.Definition) { d.Transport = etl.TransportRedirect }), "a function has no server of its own"},
		{with(function, func(d *etl.Definition) { d.Python = "2.7" }), "etl python"},
		{with(function, func(d *etl.Definition) { d.Requirements = []string{"--index-url=x"} }), "etl requirements"},
		{with(function, func(d *etl.Definition) { d.Network = etl.NetworkBridge }), "etl network"},
		{with(function, func(d *etl.Definition) { d.Image = "x" }), "a function has no image"},
		{with(function, func(d *etl.Definition) { d.Args = etl.Args(`[1]`) }), "is not a JSON object"},
		{with(function, func(d *etl.Definition) { d.Args = etl.Args(`null`) }), "is not a JSON object"},
		{with(function, func(d *etl.Definition) { d.Args = etl.Args(`{"a b": 1}`) }), "is not the name of an argument"},
		{with(function, func(d *etl.Definition) { d.Limits.Memory = 1 }), "etl memory"},
		{with(function, func(d *etl.Definition) { d.Limits.CPUs = -1 }), "etl cpus"},
		{with(function, func(d *etl.Definition) { d.Limits.Output = 2 << 40 }), "etl max_output"},
		{with(function, func(d *etl.Definition) { d.Timeout = 2 * time.Hour }), "etl timeout_s"},
		{with(function, func(d *etl.Definition) { d.Isolation = "total" }), "etl isolation"},
		{with(function, func(d *etl.Definition) { d.Env = map[string]string{"A=B": ""} }), "can't be an environment variable"},
		{with(container, func(d *etl.Definition) { d.Image = "--privileged" }), "is not the name of an OCI image"},
		{with(container, func(d *etl.Definition) { d.Transport = etl.TransportRedirect }), "needs the network host or bridge"},
		{with(container, func(d *etl.Definition) { d.Transport, d.Level = etl.TransportStdio, etl.LevelSample }), "only whole objects travel"},
		{with(container, func(d *etl.Definition) { d.Source = "x" }), "container has no source"},
		{with(server, func(d *etl.Definition) { d.URL = "ftp://x" }), "etl url"},
		{with(server, func(d *etl.Definition) { d.URL = "http://u:p@x" }), "etl url"},
		{with(server, func(d *etl.Definition) { d.Transport = etl.TransportStdio }), "does not go with kind server"},
		{with(server, func(d *etl.Definition) { d.Isolation = etl.IsolationStrict }), "can't confine it"},
		{with(server, func(d *etl.Definition) { d.Network = etl.NetworkHost }), "can't confine it"},
		{with(server, func(d *etl.Definition) { d.Limits.Memory = 1 << 30 }), "can't confine it"},
		{with(function, func(d *etl.Definition) { d.Fields = []string{"jpg"} }), "level sample gets whole samples"},
		{with(command, func(d *etl.Definition) { d.Command = nil }), "etl command: is empty"},
		{with(command, func(d *etl.Definition) { d.Level = etl.LevelBatch }), "only whole objects travel"},
	} {
		err := c.def.Validate()
		require.ErrorContains(t, err, c.want)
		var fault *etl.DefinitionError
		require.ErrorAs(t, err, &fault)
	}
}

func TestArgumentsOfARequestGoBeforeThoseOfTheDefinition(t *testing.T) {
	def := etl.Definition{Args: etl.Args(`{"size": 224, "mean": [0.5]}`)}
	for request, want := range map[string]string{
		"":              `{"size": 224, "mean": [0.5]}`,
		`{}`:            `{"mean":[0.5],"size":224}`,
		`{"size": 64}`:  `{"mean":[0.5],"size":64}`,
		`{"pad": null}`: `{"mean":[0.5],"pad":null,"size":224}`,
	} {
		got, err := def.MergeArgs(etl.Args(request))
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	none, err := etl.Definition{}.MergeArgs(etl.Args(`{}`))
	require.NoError(t, err)
	require.Nil(t, none)
	_, err = def.MergeArgs(json.RawMessage(`7`))
	require.ErrorContains(t, err, "are not a JSON object")
}

// TestArgsHaveOneForm: what goes into a key or a mark is the same for the same arguments, and survives being written down as
// a part of a document.
func TestArgsHaveOneForm(t *testing.T) {
	def := etl.Definition{Args: etl.Args(`{"pattern": "<b>&", "a": [1, 2]}`)}.WithDefaults()
	bare, err := def.MergeArgs(nil)
	require.NoError(t, err)
	for _, request := range []string{`{}`, `{"a":[1,2]}`, ` {"pattern" : "<b>&"} `} {
		got, err := def.MergeArgs(etl.Args(request))
		require.NoError(t, err)
		require.Equal(t, string(bare), string(got))
	}
	document, err := json.Marshal(map[string]etl.Args{"args": bare})
	require.NoError(t, err)
	require.Contains(t, string(document), string(bare))
	require.Nil(t, etl.Definition{Args: etl.Args(`{}`)}.WithDefaults().Args)
	for _, none := range []string{`null`, `[1]`, `{"a b": 1}`} {
		require.Equal(t, none, string(etl.Definition{Args: etl.Args(none)}.WithDefaults().Args))
	}
}
