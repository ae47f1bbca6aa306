package environment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/shardstream/shardstream/etl/sandbox"
)

// Bounds of one build.
const (
	buildMemory    = 8 << 30
	buildFile      = 16 << 30 // bytes of the largest file
	buildProcesses = 1024
	roomInterval   = time.Second // at which its size is looked at
)

// confined runs pip where it sees no more of the node than pip's configuration and what Python needs, and writes nowhere
// but in the environment: packages run code of their own when they are built.
func (b *builder) confined(ctx context.Context, args ...string) error {
	report, err := sandbox.Probe(ctx)
	if err != nil {
		return err
	}
	level, err := report.Choose(b.isolation, sandbox.Auto)
	if err != nil {
		return err
	}
	output, input, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = output.Close() }()
	tmp := filepath.Join(b.dir, tmpName)
	scratch := filepath.Join(tmp, "scratch")
	if err := os.Mkdir(scratch, 0o700); err != nil {
		return errors.Join(err, input.Close())
	}
	env := buildEnv(tmp)
	p, err := sandbox.Start(ctx, level, sandbox.Spec{
		Path: args[0], Args: args[1:], Env: env, Dir: scratch,
		Read: append(configured(env), b.base.Reads...), Write: []string{b.dir}, Hide: b.hide, Network: true,
		Limits: sandbox.Limits{Memory: buildMemory, Processes: buildProcesses, Scratch: buildFile},
		Stdout: input, Stderr: input,
	})
	_ = input.Close()
	if err != nil {
		return err
	}
	read := make(chan struct{})
	go func() { // ends with the process, and all that it has left
		defer close(read)
		_, _ = io.Copy(b.log, output)
	}()
	defer context.AfterFunc(ctx, p.Kill)()
	full := b.watch(p)
	exit := p.Wait()
	<-read
	overfull := <-full
	if err := p.Close(); err != nil {
		return err
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case overfull:
		return &BuildError{Summary: fmt.Sprintf("the environment takes more than the %d MiB that this node has left for it", b.room>>20), Log: b.log.tail()}
	case exit.OutOfMemory:
		return &BuildError{Summary: fmt.Sprintf("the build took more than %d GiB of memory", int64(buildMemory)>>30), Log: b.log.tail()}
	case exit != sandbox.Exit{}:
		return b.verdict()
	}
	return nil
}

// watch kills a build that fills the disk. What it returns says at the end of the process whether it did.
func (b *builder) watch(p *sandbox.Process) <-chan bool {
	full := make(chan bool, 1)
	go func() {
		tick := time.NewTicker(roomInterval)
		defer tick.Stop()
		for over := false; ; {
			select {
			case <-p.Exited():
				full <- over
				return
			case <-tick.C:
			}
			if !over && sandbox.Used(b.dir) > b.room {
				over = true
				p.Kill()
			}
		}
	}()
	return full
}

// lend lets the build, which runs as another user where the node is root, write in the environment.
func (b *builder) lend() error {
	return filepath.WalkDir(b.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o777) //nolint:gosec // until takeBack; nobody but the build is shown it, which has not begun
	})
}

// takeBack makes all that the build has left the node's own, which nobody else can write, and measures it.
func (e *entry) takeBack() error {
	e.Size = 0
	return filepath.WalkDir(e.path, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(path, os.Getuid(), os.Getgid()); err != nil { //nolint:gosec // all that the build has started is dead
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !d.IsDir() && !info.Mode().IsRegular() {
			return os.Remove(path) //nolint:gosec // a pipe or a device: no package needs it
		}
		if info.Mode().IsRegular() {
			e.Size += info.Size()
		}
		mode := info.Mode().Perm()&^0o022 | 0o444 // and no set-uid bit
		if d.IsDir() {
			mode |= 0o111
		}
		return os.Chmod(path, mode) //nolint:gosec // as above
	})
}

// buildEnv is what a build sees of the node's environment: where pip finds packages, and nothing of the node.
func buildEnv(tmp string) []string {
	env := []string{"TMPDIR=" + tmp, "PYTHONUTF8=1", "PYTHONUNBUFFERED=1"}
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		switch upper := strings.ToUpper(name); {
		case strings.HasPrefix(upper, "PIP_"), strings.HasSuffix(upper, "_PROXY"):
		case strings.HasPrefix(upper, "SSL_CERT_"), upper == "REQUESTS_CA_BUNDLE", upper == "CURL_CA_BUNDLE":
		case upper == "PATH", upper == "HOME", upper == "LANG", upper == "LC_ALL", strings.HasPrefix(upper, "XDG_CONFIG_"):
		default:
			continue
		}
		env = append(env, v)
	}
	return env
}

// configured are the files of pip's configuration, and those that it names: certificates, folders of packages.
func configured(env []string) []string {
	files := []string{"/etc/pip.conf", "/etc/xdg/pip"}
	if home, err := os.UserHomeDir(); err == nil {
		files = append(files, filepath.Join(home, ".pip"), filepath.Join(home, ".config", "pip"), filepath.Join(home, ".netrc"))
	}
	if dir := os.Getenv("XDG_CONFIG_HOME"); dir != "" {
		files = append(files, filepath.Join(dir, "pip"))
	}
	var named []string
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		if name == "PIP_CONFIG_FILE" {
			files = append(files, value)
		}
		if strings.HasPrefix(name, "PIP_") || strings.HasPrefix(name, "SSL_") || strings.HasSuffix(name, "_BUNDLE") {
			named = append(named, paths(value)...)
		}
	}
	for _, file := range files {
		for _, path := range []string{file, filepath.Join(file, "pip.conf")} {
			if content, err := os.ReadFile(path); err == nil { //nolint:gosec // as pip itself does
				named = append(named, paths(string(content))...)
			}
		}
	}
	return append(files, named...)
}

// paths finds the absolute paths in a text of words. The root itself is none that a configuration means.
func paths(text string) []string {
	var found []string
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\n' || r == '\t' || r == '=' || r == ',' }) {
		word = strings.TrimPrefix(word, "file://")
		if path := filepath.Clean(word); filepath.IsAbs(path) && path != "/" {
			found = append(found, path)
		}
	}
	return found
}
