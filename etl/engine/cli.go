package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// dialect is where the command lines of podman and docker differ.
type dialect struct {
	program   string
	version   []string // prints the version of what does the work, and fails where that is not there
	logDriver string   // leaves the output to the streams alone
	remove    []string // at once, whether it runs or not
	addHost   string   // makes HostName known on a bridge; podman does so by itself
	podman    bool
}

var (
	// passthrough gives the container the very streams: no copy in between, and nothing is lost at the end.
	podmanDialect = dialect{
		program: Podman, version: []string{"info", "--format", "{{.Version.Version}}"}, logDriver: "passthrough",
		remove: []string{"rm", "--force", "--time", "0"}, podman: true,
	}
	// The client alone answers also where there is no daemon: it is the server's version that is asked for.
	dockerDialect = dialect{
		program: Docker, version: []string{"version", "--format", "{{.Server.Version}}"}, logDriver: "none",
		remove: []string{"rm", "--force", "--volumes"}, addHost: HostName + ":host-gateway",
	}
)

// cli is an engine behind the command line that podman and docker share.
type cli struct {
	dialect
	name string
	temp func() (string, error) // makes a directory
}

func openCLI(ctx context.Context, d dialect, temp func() (string, error)) (*cli, error) {
	if _, err := exec.LookPath(d.program); err != nil {
		return nil, fmt.Errorf("%s is not installed", d.program)
	}
	version, err := output(ctx, probeTimeout, d.program, d.version...)
	if err != nil {
		return nil, err
	}
	return &cli{dialect: d, name: d.program + " " + version, temp: temp}, nil
}

func (c *cli) Name() string { return c.name }

func (c *cli) Image(ctx context.Context, name string, progress func(string)) (Image, error) {
	image, err := c.inspect(ctx, name)
	if err == nil || !isMissing(err) {
		return image, err
	}
	progress("pulling image " + name)
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	said := &lines{each: func(line string) { progress("pulling image " + name + ": " + line) }}
	cmd := exec.CommandContext(ctx, c.program, "pull", "--quiet", name)
	if c.podman {
		cmd = exec.CommandContext(ctx, c.program, "pull", name) // says on stderr what it is at
	}
	cmd.Stderr, cmd.WaitDelay = said, outputAfterExit
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return Image{}, fmt.Errorf("pulling image %s by %s took too long: %w", name, c.program, ctx.Err())
		}
		return Image{}, fmt.Errorf("image %s is not on this node and can't be pulled by %s: %s", name, c.program, lastLine(said.tail.String()))
	}
	return c.inspect(ctx, name)
}

func (c *cli) inspect(ctx context.Context, name string) (Image, error) {
	text, err := output(ctx, callTimeout, c.program, "image", "inspect", name)
	if err != nil {
		return Image{}, err
	}
	var answer []struct {
		ID     string `json:"Id"`
		Config struct{ User string }
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil || len(answer) != 1 {
		return Image{}, fmt.Errorf("%s image inspect %s: %d images: %w", c.program, name, len(answer), err)
	}
	return Image{ID: answer[0].ID, User: answer[0].Config.User}, nil
}

// isMissing says whether an engine has said that it knows no such image or container.
func isMissing(err error) bool {
	var e *commandError
	if !errors.As(err, &e) {
		return false
	}
	said := strings.ToLower(e.said)
	for _, words := range []string{"no such", "not known", "does not exist", "not found"} {
		if strings.Contains(said, words) {
			return true
		}
	}
	return false
}

func (c *cli) Start(ctx context.Context, spec Spec, stdio Stdio) (*Container, error) {
	args, env := c.runArgs(spec, stdio.In != nil)
	// Podman's monitor of a container leaves a file called oom where it was started, if that is how the container ends.
	dir, err := c.temp()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(c.program, args...)
	cmd.Env, cmd.Dir = append(os.Environ(), env...), dir
	started := &Container{
		Name: spec.Name, engine: c, cmd: cmd, selfRemoving: spec.Once, oom: filepath.Join(dir, "oom"), tidy: func() { _ = os.RemoveAll(dir) },
	}
	if err := started.start(ctx, stdio); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return started, nil
}

// runArgs makes the command line of run. Variables whose names mean nothing to the engine itself go by its environment,
// so that their values don't show in the machine's list of processes.
func (c *cli) runArgs(spec Spec, stdin bool) (args, env []string) {
	args = []string{"run", "--name", spec.Name, "--pull", "never", "--log-driver", c.logDriver}
	if spec.Once {
		args = append(args, "--rm")
	}
	if stdin {
		args = append(args, "--interactive")
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Labels)) {
		args = append(args, "--label", name+"="+spec.Labels[name])
	}
	args = append(args, c.confine(spec)...)
	args = append(args, "--network", spec.Network)
	if spec.Network == NetworkBridge {
		if host, port, ok := cutLast(spec.Publish, ":"); ok {
			if strings.Contains(host, ":") {
				host = "[" + host + "]"
			}
			args = append(args, "--publish", host+"::"+port)
		}
		if spec.Hosts && c.addHost != "" {
			args = append(args, "--add-host", c.addHost)
		}
	}
	for _, m := range spec.Mounts {
		args = append(args, "--volume", m.Source+":"+m.Target+":rw,z")
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Env)) {
		if engineReads(name) {
			args = append(args, "--env", name+"="+spec.Env[name])
			continue
		}
		args = append(args, "--env", name)
		env = append(env, name+"="+spec.Env[name])
	}
	args = append(args, spec.Image.ID)
	if len(spec.Command) > 0 {
		// The image's entry point would take the command for its arguments.
		args = append(args[:len(args)-1], "--entrypoint", spec.Command[0], spec.Image.ID)
		args = append(args, spec.Command[1:]...)
	}
	return args, env
}

// confine are the flags that bound what a container may do and take.
func (c *cli) confine(spec Spec) []string {
	args := []string{
		"--read-only", "--tmpfs", fmt.Sprintf("/tmp:rw,mode=1777,size=%d", spec.Tmp),
		"--cap-drop", "all", "--security-opt", "no-new-privileges", "--pids-limit", strconv.Itoa(spec.PIDs),
	}
	if spec.Image.User == "" {
		args = append(args, "--user", fmt.Sprintf("%d:%d", nobody, nobody))
	}
	if spec.Memory > 0 {
		memory := strconv.FormatInt(spec.Memory, 10)
		args = append(args, "--memory", memory, "--memory-swap", memory)
	}
	if spec.CPUs > 0 {
		args = append(args, "--cpus", strconv.FormatFloat(spec.CPUs, 'f', -1, 64))
	}
	for _, r := range rlimits() {
		args = append(args, "--ulimit", fmt.Sprintf("%s=%d:%d", r.name, r.value, r.value))
	}
	return args
}

// nobody is the user that a container runs as where its image names none.
const nobody = 65534

type rlimit struct {
	name  string
	value uint64
}

// rlimits are limits that this process can always hand on: an engine's own defaults may be higher than it is allowed to
// set, and so may be the node's own, of which an engine's helpers have given up a part on the way. The number of processes
// is that of the user on the whole machine; what bounds a container is its own limit of processes.
func rlimits() []rlimit {
	list := []rlimit{{"nofile", 65536}, {"nproc", 32768}}
	for i, resource := range []int{unix.RLIMIT_NOFILE, unix.RLIMIT_NPROC} {
		var r unix.Rlimit
		if unix.Getrlimit(resource, &r) == nil {
			list[i].value = min(list[i].value, r.Max)
		}
	}
	return list
}

// engineReads says whether a variable could mean something to the engine's client.
func engineReads(name string) bool {
	if _, set := os.LookupEnv(name); set {
		return true
	}
	for _, prefix := range []string{"CONTAINER", "DOCKER", "PODMAN", "BUILDAH", "REGISTR", "STORAGE", "LD_", "XDG_", "GO", "HTTP", "http", "NO_PROXY", "no_proxy", "TMP", "SSL_", "_", "LISTEN_", "NOTIFY", "DBUS", "TERM", "HOME", "PATH", "USER"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func (c *cli) Port(ctx context.Context, name string, port int) (string, error) {
	text, err := output(ctx, callTimeout, c.program, "port", name, strconv.Itoa(port)+"/tcp")
	if err != nil {
		return "", err
	}
	address, _, _ := strings.Cut(text, "\n")
	return address, nil
}

func (c *cli) Remove(ctx context.Context, name string) error {
	_, err := output(ctx, callTimeout, c.program, append(slices.Clone(c.remove), name)...)
	if isMissing(err) {
		return nil
	}
	return err
}

func (c *cli) List(ctx context.Context, label, value string) ([]string, error) {
	text, err := output(ctx, callTimeout, c.program, "ps", "--all", "--filter", "label="+label+"="+value, "--format", "{{.Names}}")
	if err != nil {
		return nil, err
	}
	return strings.Fields(text), nil
}

// lines calls each for every line that is written to it, and keeps the end of all.
type lines struct {
	tail tail
	each func(string)
	rest []byte
}

func (l *lines) Write(p []byte) (int, error) {
	_, _ = l.tail.Write(p)
	l.rest = append(l.rest, p...)
	for {
		i := slices.Index(l.rest, '\n')
		if i < 0 {
			break
		}
		if line := strings.TrimSpace(string(l.rest[:i])); line != "" {
			l.each(strings.ToValidUTF8(line, "\uFFFD"))
		}
		l.rest = l.rest[i+1:]
	}
	if len(l.rest) > stderrKept {
		l.rest = nil
	}
	return len(p), nil
}
