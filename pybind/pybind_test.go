package pybind_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/pybind"
)

// TestSurfaceIsFlat holds the one shape that gopy binds without leaks or crashes: functions of int64,
// float64, bool and string that return one of these and an error.
func TestSurfaceIsFlat(t *testing.T) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "pybind.go", nil, 0)
	require.NoError(t, err)
	flat := map[string]bool{"int64": true, "float64": true, "bool": true, "string": true}
	functions := 0
	for _, d := range file.Decls {
		if g, ok := d.(*ast.GenDecl); ok {
			for _, s := range g.Specs {
				if ts, ok := s.(*ast.TypeSpec); ok {
					require.False(t, ts.Name.IsExported(), "type %s crosses the boundary", ts.Name)
				}
			}
			continue
		}
		f := d.(*ast.FuncDecl)
		if !f.Name.IsExported() {
			continue
		}
		functions++
		require.Nil(t, f.Recv, "%s is a method", f.Name)
		for _, p := range f.Type.Params.List {
			id, ok := p.Type.(*ast.Ident)
			require.True(t, ok && flat[id.Name], "%s takes a parameter that is not flat", f.Name)
		}
		var results []string
		for _, r := range f.Type.Results.List {
			id, ok := r.Type.(*ast.Ident)
			require.True(t, ok, "%s returns something that is not flat", f.Name)
			results = append(results, id.Name)
		}
		require.Len(t, results, 2, "%s must return (T, error)", f.Name)
		require.True(t, flat[results[0]], "%s must return a flat value", f.Name)
		require.Equal(t, "error", results[1], "%s must return an error", f.Name)
		guarded, ok := f.Body.List[0].(*ast.DeferStmt)
		require.True(t, ok, "%s must begin with defer guard(&err): a panic ends the Python process", f.Name)
		require.Equal(t, "guard", guarded.Call.Fun.(*ast.Ident).Name)
	}
	require.Greater(t, functions, 5)
}

func TestErrorsCarryCodes(t *testing.T) {
	for name, c := range map[string]struct{ config, want string }{
		"not json":   {"{", "bad_request|"},
		"no sources": {`{"batch_size": 4, "shuffle": "global"}`, "bad_request|a stream needs at least one source"},
		"batch size": {`{"sources": ["ss://b/"], "batch_size": 0, "shuffle": "global"}`, "bad_request|batch_size must be 1 or more, not 0"},
		"shuffle":    {`{"sources": ["ss://b/"], "batch_size": 4, "shuffle": "blender"}`, "bad_request|"},
		"endpoint":   {`{"endpoint": "nowhere", "sources": ["ss://b/"], "batch_size": 4, "shuffle": "global"}`, "|endpoint"},
	} {
		_, err := pybind.Open(c.config)
		require.ErrorContains(t, err, c.want, name)
	}
	id, err := pybind.Open(`{"endpoint": "http://127.0.0.1:1", "sources": ["ss://b/"], "batch_size": 4, "shuffle": "global"}`)
	require.NoError(t, err)
	_, err = pybind.Next(id, 1)
	require.Error(t, err, "no iteration was started")
	_, err = pybind.Start(id, `{"rank": 3, "world_size": 2}`)
	require.ErrorContains(t, err, "bad_request|")
	_, err = pybind.Release(id, 5)
	require.ErrorContains(t, err, "slot 5 is not held")
	for range 2 {
		_, err = pybind.Close(id)
		require.NoError(t, err)
	}
	_, err = pybind.Next(id, 1)
	require.ErrorContains(t, err, "closed|")
}
