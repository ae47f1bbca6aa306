package etl

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/shardstream/shardstream/etl/sandbox"
)

// Isolation is the level at which a definition runs on a node that accepts no less than least (empty or
// "auto": the most that it has). A definition that wants more than the machine has is refused by a *DefinitionError.
func Isolation(report *sandbox.Report, least string, def Definition) (string, error) {
	if _, err := report.Level(least); err != nil {
		return "", err
	}
	level, err := report.Choose(least, def.Isolation)
	if err != nil {
		return "", &DefinitionError{"isolation", err.Error()}
	}
	return level, nil
}

// spec is what a worker is given and may use, but for its descriptors.
func (s *spawner) spec(home, dir string) sandbox.Spec {
	code := filepath.Join(home, codeName)
	return sandbox.Spec{
		Path: s.python.Path, Args: []string{"-E", "-B", "-X", "utf8", filepath.Join(code, scriptName)}, Env: s.env(dir), Dir: dir,
		Read: append([]string{code}, s.python.Reads...), Hide: s.opts.Hide,
		Network: s.def.Network == NetworkHost, Limits: s.limits(),
	}
}

func (s *spawner) limits() sandbox.Limits {
	return sandbox.Limits{Memory: s.def.Limits.Memory, CPUs: s.def.Limits.CPUs}
}

// confined says how workers are isolated: the level in force, and what exactly that is here.
func (s *spawner) confined() (level string, what []string) {
	return s.level, s.report.Confined(s.level, sandbox.Spec{Network: s.def.Network == NetworkHost, Limits: s.limits()})
}

// env is a worker's environment: what every worker has, and over that what the definition says.
func (s *spawner) env(tmp string) []string {
	env := workerEnv(tmp)
	for _, name := range slices.Sorted(maps.Keys(s.def.Env)) {
		env = append(env, name+"="+s.def.Env[name])
	}
	return env
}

// workerEnv is all that a worker sees of the node's environment. Maths libraries get one thread each,
// as there is a worker for every CPU.
func workerEnv(tmp string) []string {
	env := []string{
		"TMPDIR=" + tmp, "XDG_CACHE_HOME=" + tmp, // the one place where it may write
		"USER=shardstream", "LOGNAME=shardstream", // the user that it runs under has no name
		"OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "MKL_NUM_THREADS=1",
		// Samples come and go at the same sizes: fresh pages for each would cost more than copying it.
		"MALLOC_MMAP_THRESHOLD_=33554432", "MALLOC_TRIM_THRESHOLD_=134217728",
	}
	for _, name := range []string{"PATH", "HOME", "LANG"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// overrun is why a worker that has answered must not go on: it met the limit of processes, and what it has
// started may well run on.
func (p *process) overrun() string {
	if p.box.ForksRefused() {
		return fmt.Sprintf("it had more than %d processes and threads", sandbox.DefaultProcesses)
	}
	return ""
}
