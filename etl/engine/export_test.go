package engine

import (
	"os/exec"
	"strings"
	"testing"
)

// DockerRun is the command line by which docker would run a container.
func DockerRun(spec Spec) (args, env []string) {
	return (&cli{dialect: dockerDialect}).runArgs(spec, true)
}

// TakenByDocker lets docker's client look at a command line, against a daemon that is not there.
func TakenByDocker(t *testing.T, args []string) {
	t.Helper()
	if _, err := exec.LookPath(Docker); err != nil {
		t.Skip("docker's client is not installed: its flags can't be tried")
	}
	for _, line := range [][]string{args, append(dockerDialect.remove, "n"), dockerDialect.version, {"ps", "--all", "--filter", "label=a=b", "--format", "{{.Names}}"}, {"pull", "--quiet", "x"}, {"port", "n", "80/tcp"}} {
		out, err := exec.Command(Docker, append([]string{"--host", "unix:///nowhere.sock"}, line...)...).CombinedOutput()
		if err == nil || !strings.Contains(strings.ToLower(string(out)), "connect") {
			t.Errorf("docker %q: %v: %s", line, err, out)
		}
	}
}
