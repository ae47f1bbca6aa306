package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/shardstream/shardstream/core/backend"
)

// resumable is the size from which on a copy that broke off is taken up again where it stopped.
const resumable = 8 << 20

// Put implements Side: the file appears under its name when it is whole, verified and on disk.
func (l *Local) Put(ctx context.Context, name string, body *Body, size int64, o PutOptions) (File, error) {
	if err := checkLocalName(name); err != nil {
		return File{}, l.failure("put", name, err)
	}
	root, err := l.open(true)
	if err == nil {
		err = l.prepare(root, name)
	}
	if err != nil {
		return File{}, l.failure("put", name, err)
	}
	if o.NoOverwrite {
		if _, err := root.Lstat(name); err == nil {
			return File{}, l.failure("put", name, ErrExists)
		}
	}
	p, err := l.begin(root, name, body, size, o.Source.Tag)
	if err != nil {
		return File{}, l.failure("put", name, err)
	}
	defer p.close()
	if err := p.fill(ctx, body); err != nil {
		return File{}, l.putFailure(name, err)
	}
	if err := p.finish(name, o); err != nil {
		return File{}, l.failure("put", name, explainPlace(name, err))
	}
	l.touch(path.Dir(name))
	info, err := root.Stat(name)
	if err != nil {
		return File{}, l.failure("put", name, err)
	}
	return fileOf(name, info), nil
}

// putFailure leaves alone what the source's side has said.
func (l *Local) putFailure(name string, err error) error {
	var known *backend.Error
	if errors.As(err, &known) || errors.Is(err, context.Canceled) {
		return err
	}
	return l.failure("put", name, err)
}

// prepare makes the folders that a name needs, and finds out what stands in its way.
func (l *Local) prepare(root *os.Root, name string) error {
	if err := l.checkCase(root, name); err != nil {
		return err
	}
	if folder := path.Dir(name); folder != "." {
		err := root.MkdirAll(folder, 0o777)
		if errors.Is(err, fs.ErrExist) {
			err = syscall.ENOTDIR
		}
		if err != nil {
			return explainPlace(name, err)
		}
	}
	if info, err := root.Lstat(name); err == nil && info.IsDir() {
		return errors.New("there is a folder of this name: a file and a folder can't have the same")
	}
	return nil
}

func explainPlace(name string, err error) error {
	if errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("a file stands where %s/ would be a folder: a file and a folder can't have the same name", path.Dir(name))
	}
	return err
}

// part is a file that is not whole yet.
type part struct {
	root *os.Root
	file *os.File
	name string // under the root
	keep bool   // to be taken up again: there is a note beside it
	note note
}

// begin makes the file that bytes go to: for a large one, what a copy of the same that broke off has left.
func (l *Local) begin(root *os.Root, name string, body *Body, size int64, tag string) (*part, error) {
	if size >= resumable && tag != "" {
		p, err := takeUp(root, name, body, note{Name: name, Tag: tag, Size: size})
		if p != nil || err != nil {
			return p, err
		}
	}
	for i := 0; ; i++ {
		temporary := path.Join(path.Dir(name), fmt.Sprintf("%s%d-%08x%s", partPrefix, os.Getpid(), rand.Uint32(), partSuffix))
		file, err := root.OpenFile(temporary, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
		if err == nil {
			return &part{root: root, file: file, name: temporary}, nil
		}
		if !errors.Is(err, fs.ErrExist) || i > 100 {
			return nil, explainPlace(name, err)
		}
	}
}

// fill writes the rest of the body. What is there when it fails is kept if it can be taken up again.
func (p *part) fill(ctx context.Context, body *Body) error {
	const checkpoint = 32 << 20
	buffer := make([]byte, 1<<20)
	noted := body.position()
	for {
		n, err := body.Read(buffer)
		if n > 0 {
			if _, writeErr := p.file.Write(buffer[:n]); writeErr != nil {
				return p.dropOn(writeErr)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case backend.KindOf(err) == backend.Corrupt || backend.KindOf(err) == backend.Changed:
			return p.dropOn(err)
		case err != nil:
			return errors.Join(err, p.write(body))
		case p.keep && body.position()-noted >= checkpoint:
			if err := p.write(body); err != nil {
				return err
			}
			noted = body.position()
		}
		if err := context.Cause(ctx); err != nil {
			return errors.Join(err, p.write(body))
		}
	}
}

// dropOn gives up what a part has, as it is of no use.
func (p *part) dropOn(err error) error {
	if p.keep {
		p.keep = false
		_ = p.root.Remove(p.note.path())
	}
	return err
}

// finish gives the file its name.
func (p *part) finish(name string, o PutOptions) error {
	if err := p.file.Sync(); err != nil {
		return err
	}
	if at := o.Source.Modified; !at.IsZero() {
		if err := p.root.Chtimes(p.name, at, at); err != nil {
			return err
		}
	}
	if o.NoOverwrite { // a link is refused where a rename would replace
		if err := p.root.Link(p.name, name); err != nil {
			if errors.Is(err, fs.ErrExist) {
				return ErrExists
			}
			return err
		}
		p.forget()
		return nil // close removes the other name
	}
	if err := p.root.Rename(p.name, name); err != nil {
		return err
	}
	p.forget()
	p.name = ""
	return nil
}

// forget removes the note of a file that is whole.
func (p *part) forget() {
	if p.keep {
		_ = p.root.Remove(p.note.path())
		p.keep = false
	}
}

// close ends the work on a part: whole or broken off.
func (p *part) close() {
	_ = p.file.Close()
	if !p.keep && p.name != "" {
		_ = p.root.Remove(p.name)
	}
}

// Names of files that are not whole. They belong to this program, and listings leave them out.
const (
	partPrefix = ".shardstream-"
	partSuffix = ".part"
	noteSuffix = ".note"
)

func isPart(base string) bool {
	return strings.HasPrefix(base, partPrefix) && (strings.HasSuffix(base, partSuffix) || strings.HasSuffix(base, noteSuffix))
}

// checkLocalName refuses names that no file below a folder can have, or that would be another's.
func checkLocalName(name string) error {
	switch {
	case name == "" || strings.HasSuffix(name, "/"):
		return errors.New("its name ends in a slash: a file can't have it")
	case name != path.Clean(name) || strings.HasPrefix(name, "/") || name == ".." || strings.HasPrefix(name, "../"):
		return errors.New("its name has an empty, . or .. part: a file can't have it")
	case strings.ContainsRune(name, 0):
		return errors.New("its name has a NUL: a file can't have it")
	case len(name) > 4000:
		return fmt.Errorf("its name has %d bytes: a file's has at most 4000", len(name))
	}
	for p := range strings.SplitSeq(name, "/") {
		if len(p) > 255 {
			return fmt.Errorf("%.40q... has %d bytes: a part of a file's name has at most 255", p, len(p))
		}
		if isPart(p) {
			return fmt.Errorf("%q is a name that copies under way have", p)
		}
	}
	return nil
}

// checkCase refuses a name that differs from an earlier one by case alone, where the file system can't tell them apart.
func (l *Local) checkCase(root *os.Root, name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.probed {
		l.probed = true
		if foldsCase(root) {
			l.folded = map[string]string{}
		}
	}
	if l.folded == nil {
		return nil
	}
	folded := strings.ToLower(name)
	if other := cmp.Or(l.folded[folded], name); other != name {
		return fmt.Errorf("%s is the same file here, as upper and lower case are not told apart", other)
	}
	l.folded[folded] = name
	return nil
}

// foldsCase finds out whether a file system takes upper and lower case for the same.
func foldsCase(root *os.Root) bool {
	name := fmt.Sprintf("%s%d-case%s", partPrefix, os.Getpid(), partSuffix)
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return false
	}
	defer func() { _ = root.Remove(name) }()
	_ = file.Close()
	_, err = root.Lstat(strings.ToUpper(name))
	return err == nil
}
