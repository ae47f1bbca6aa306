package etl

import (
	"context"
	"embed"

	"github.com/shardstream/shardstream/etl/environment"
)

// workerFiles are what workers run.
//
//go:embed worker/worker.py worker/shardstream_worker/*.py
var workerFiles embed.FS

// PythonEnv names the environment variable that chooses the interpreter of workers.
const PythonEnv = environment.PythonEnv

// FindPython returns the interpreter that workers run under where a definition asks for nothing else: preferred if
// not empty, else what SHARDSTREAM_PYTHON names, else python3 beside the running binary (a wheel's environment), else
// python3 on PATH. The error wraps ErrNoPython.
func FindPython(ctx context.Context, preferred string) (string, error) {
	found, err := environment.FindPython(ctx, preferred)
	return found.Path, err
}
