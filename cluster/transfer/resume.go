package transfer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"github.com/zeebo/xxh3"
)

// note says what a part that is kept has: so many bytes, with this checksum, of the file with this tag. What the disk has
// after a crash is compared with it, so neither needs to be written in any order.
type note struct {
	Name   string `json:"name"`
	Tag    string `json:"tag"`
	Size   int64  `json:"size"`
	Length int64  `json:"length"`
	XXH3   string `json:"xxh3"`
}

// part is where the bytes are: one place for each name, so that a later copy finds it.
func (n *note) part() string {
	return path.Join(path.Dir(n.Name), fmt.Sprintf("%s%016x%s", partPrefix, xxh3.HashString(n.Name), partSuffix))
}

func (n *note) path() string {
	return path.Join(path.Dir(n.Name), fmt.Sprintf("%s%016x%s", partPrefix, xxh3.HashString(n.Name), noteSuffix))
}

// takeUp opens the part of a file that is kept, and takes what it has of the body for read. nil: another process copies
// the same file, so this copy needs a part of its own.
func takeUp(root *os.Root, name string, body *Body, want note) (*part, error) {
	file, err := root.OpenFile(want.part(), os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, explainPlace(name, err)
	}
	if !lockPart(root, file, want.part()) {
		return nil, file.Close()
	}
	p := &part{root: root, file: file, name: want.part(), keep: true, note: want}
	length := p.trusted(body)
	if length == 0 {
		body.restart()
	}
	err = file.Truncate(length)
	if err == nil {
		_, err = file.Seek(length, io.SeekStart)
	}
	if err == nil {
		err = p.write(body)
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// lockPart makes sure that this process alone writes to a part, and that it still is one: another may have finished it,
// and given it the file's own name, after it was opened here.
func lockPart(root *os.Root, file *os.File, name string) bool {
	if syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return false
	}
	mine, err := file.Stat()
	if err != nil {
		return false
	}
	there, err := root.Lstat(name)
	return err == nil && os.SameFile(mine, there)
}

// trusted reads what the part has of the body, and says how much of it can be relied on: all that is noted, or nothing.
func (p *part) trusted(body *Body) int64 {
	document, err := p.root.ReadFile(p.note.path())
	if err != nil {
		return 0
	}
	var found note
	if json.Unmarshal(document, &found) != nil || found.Name != p.note.Name || found.Tag != p.note.Tag ||
		found.Size != p.note.Size || found.Length <= 0 || found.Length >= found.Size {
		return 0
	}
	buffer := make([]byte, 1<<20)
	for left := found.Length; left > 0; {
		n, err := p.file.Read(buffer[:min(int64(len(buffer)), left)])
		body.skip(buffer[:n])
		left -= int64(n)
		if err != nil && left > 0 {
			return 0
		}
	}
	if body.prefixSum() != found.XXH3 {
		return 0
	}
	return found.Length
}

// write notes what the part has now.
func (p *part) write(body *Body) error {
	if !p.keep {
		return nil
	}
	p.note.Length, p.note.XXH3 = body.position(), body.prefixSum()
	document, err := json.Marshal(p.note)
	if err != nil {
		return err
	}
	next := p.note.path() + partSuffix
	if err := p.root.WriteFile(next, document, 0o666); err != nil {
		return err
	}
	err = p.root.Rename(next, p.note.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil // another process has made the file whole
	}
	return err
}
