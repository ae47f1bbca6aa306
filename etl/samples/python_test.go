package samples_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/samples"
)

// echo reads messages of an announced length, and writes what it has understood, in the same way.
const echo = `
import io, struct, sys
from shardstream.etl import _samples as s
while head := sys.stdin.buffer.read(8):
    body = sys.stdin.buffer.read(struct.unpack("<Q", head)[0])
    parts, count = [s.MAGIC], 0
    for item in s.read_message(io.BytesIO(body)):
        count += 1
        parts += [s.encode_fault(item)] if isinstance(item, s.Fault) else s.encode_sample(item)
    answer = b"".join([*parts, s.encode_end(count)])
    sys.stdout.buffer.write(struct.pack("<Q", len(answer)) + answer)
    sys.stdout.buffer.flush()
`

// values draws a value that has the same type in Python when it comes back. Numbers without dimensions do not: there is
// one type of int in Python, and one of float.
func values() *rapid.Generator[etl.Value] {
	return rapid.Custom(func(t *rapid.T) etl.Value {
		dtype := etl.DType(rapid.IntRange(0, int(etl.Text)).Draw(t, "type"))
		switch dtype {
		case etl.Bytes:
			return etl.BytesValue(append([]byte{}, rapid.SliceOfN(rapid.Byte(), 0, 40_000).Draw(t, "bytes")...))
		case etl.Text:
			return etl.Value{DType: dtype, Data: []byte(rapid.String().Draw(t, "text"))}
		}
		shape := rapid.SliceOfN(rapid.Int64Range(0, 4), 0, 4).Draw(t, "shape")
		if len(shape) == 0 {
			scalars := []etl.DType{etl.Bool, etl.Int64, etl.Float64}
			dtype, shape = rapid.SampledFrom(scalars).Draw(t, "scalar"), nil
		}
		size := dtype.Size()
		for _, d := range shape {
			size *= d
		}
		data := make([]byte, size)
		if dtype == etl.Bool || dtype == etl.Float64 {
			for i := range data { // no NaN, whose bits are nobody's promise, and no bool but 0 and 1
				data[i] = byte(rapid.IntRange(0, 1).Draw(t, "bit"))
			}
			return etl.Value{DType: dtype, Shape: shape, Data: data}
		}
		copy(data, rapid.SliceOfN(rapid.Byte(), int(size), int(size)).Draw(t, "data"))
		return etl.Value{DType: dtype, Shape: shape, Data: data}
	})
}

func messages() *rapid.Generator[[]etl.Result] {
	return rapid.Custom(func(t *rapid.T) []etl.Result {
		out := make([]etl.Result, rapid.IntRange(0, 5).Draw(t, "samples"))
		for i := range out {
			if rapid.IntRange(0, 4).Draw(t, "fault") == 0 {
				out[i].Err = &samples.Fault{Summary: rapid.String().Draw(t, "summary"), Traceback: rapid.String().Draw(t, "traceback")}
				continue
			}
			s := etl.Sample{
				Key: rapid.StringMatching(`([a-zäß0-9_-][a-zäß0-9/_-]{0,20})?`).Draw(t, "key"), Seed: rapid.Uint64().Draw(t, "seed"), Fields: []etl.Field{},
			}
			names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z.ü-]{1,10}`), 0, 5, rapid.ID).Draw(t, "names")
			for _, name := range names {
				s.Fields = append(s.Fields, etl.Field{Name: name, Value: values().Draw(t, "value")})
			}
			out[i].Sample = s
		}
		return out
	})
}

// TestPythonUnderstands: the twin in Python takes what this package writes for what it is, and the reverse.
func TestPythonUnderstands(t *testing.T) {
	interpreter := python(t)
	source, err := filepath.Abs(filepath.Join("..", "..", "python", "src"))
	require.NoError(t, err)
	cmd := exec.Command(interpreter, "-c", echo)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+source)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() {
		require.NoError(t, in.Close())
		require.NoError(t, cmd.Wait())
	}()
	rapid.Check(t, func(rt *rapid.T) {
		sent := messages().Draw(rt, "message")
		var b bytes.Buffer
		w := samples.NewWriter(&b)
		for i := range sent {
			var fault *samples.Fault
			if errors.As(sent[i].Err, &fault) {
				require.NoError(rt, w.Fault(fault.Summary, fault.Traceback))
				continue
			}
			require.NoError(rt, w.Sample(&sent[i].Sample))
		}
		require.NoError(rt, w.Close())
		_, err := in.Write(append(binary.LittleEndian.AppendUint64(nil, uint64(b.Len())), b.Bytes()...))
		require.NoError(rt, err)
		head := make([]byte, 8)
		_, err = io.ReadFull(out, head)
		require.NoError(rt, err)
		answer := make([]byte, binary.LittleEndian.Uint64(head))
		_, err = io.ReadFull(out, answer)
		require.NoError(rt, err)
		got, err := read(bytes.NewReader(answer), samples.Limits{Answer: true})
		require.NoError(rt, err)
		if len(sent) == 0 {
			sent = nil
		}
		require.Equal(rt, sent, got)
	})
}

// python finds an interpreter with numpy.
func python(t *testing.T) string {
	t.Helper()
	for _, candidate := range []string{os.Getenv("SHARDSTREAM_PYTHON"), filepath.Join("..", "..", ".venv", "bin", "python"), "python3"} {
		if candidate != "" && exec.Command(candidate, "-c", "import numpy").Run() == nil {
			return candidate
		}
	}
	t.Skip("no Python with numpy here")
	return ""
}
