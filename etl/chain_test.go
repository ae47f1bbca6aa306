package etl_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl"
)

func TestParseChain(t *testing.T) {
	for _, c := range []struct {
		names, args string
		want        []etl.Step
		fault       string
	}{
		{"", "", nil, ""},
		{"", "null", nil, ""},
		{"a", "", []etl.Step{{Name: "a"}}, ""},
		{"a", ` {"x": 1}`, []etl.Step{{"a", etl.Args(`{"x": 1}`)}}, ""},
		{"a", `[{"x": 1}]`, []etl.Step{{"a", etl.Args(`{"x": 1}`)}}, ""},
		{"a,b", "null", []etl.Step{{Name: "a"}, {Name: "b"}}, ""},
		{"a,b,a", `[null, {"x": 1}, {}]`, []etl.Step{{Name: "a"}, {"b", etl.Args(`{"x": 1}`)}, {"a", etl.Args(`{}`)}}, ""},
		{"", `{"x": 1}`, nil, "but no etl"},
		{"a,b", `{"x": 1}`, nil, "a list with one JSON object, or null, for each"},
		{"a,b", `[{}]`, nil, "1 arguments for 2 transformations"},
		{"a", `5`, nil, "not a JSON object"},
		{"a", `[5]`, nil, "not a JSON object"},
		{"a", `[`, nil, "not JSON"},
		{"a", `{"x y": 1}`, nil, "not the name of an argument"},
		{"a,", "", nil, "is not a name"},
		{"a, b", "", nil, "is not a name"},
		{"a,b,c,d,e,f,g,h,i", "", nil, "at most 8"},
	} {
		got, err := etl.ParseChain(c.names, json.RawMessage(c.args))
		if c.fault != "" {
			var fault *etl.DefinitionError
			require.ErrorAs(t, err, &fault, c)
			require.ErrorContains(t, err, c.fault)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.want, got)
	}
}
