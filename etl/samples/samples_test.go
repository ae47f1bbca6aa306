package samples_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/samples"
)

func some() []etl.Sample {
	return []etl.Sample{
		{Key: "a/000", Seed: 7, Fields: []etl.Field{
			{Name: "jpg", Value: etl.BytesValue(bytes.Repeat([]byte("x"), 100_000))},
			{Name: "cls", Value: etl.Value{DType: etl.Int64, Data: make([]byte, 8)}},
			{Name: "txt", Value: etl.Value{DType: etl.Text, Data: []byte("größer")}},
		}},
		{Key: "b", Fields: []etl.Field{
			{Name: "image", Value: etl.Value{DType: etl.Uint8, Shape: []int64{2, 3, 1}, Data: []byte{1, 2, 3, 4, 5, 6}}},
			{Name: "none", Value: etl.Value{DType: etl.Float32, Shape: []int64{0, 4}, Data: []byte{}}},
			{Name: "large", Value: etl.BytesValue(bytes.Repeat([]byte("y"), 5<<20))},
		}},
		{Key: "empty", Fields: []etl.Field{}},
	}
}

func encode(t *testing.T, in []etl.Sample) []byte {
	t.Helper()
	buffers, size, err := samples.Encode(in)
	require.NoError(t, err)
	var b bytes.Buffer
	_, err = buffers.WriteTo(&b)
	require.NoError(t, err)
	require.EqualValues(t, b.Len(), size)
	return b.Bytes()
}

// read reads a whole message.
func read(r io.Reader, limits samples.Limits) ([]etl.Result, error) {
	reader := samples.NewReader(r, limits)
	var out []etl.Result
	for {
		result, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, result)
	}
}

func TestMessagesArriveAsTheyWereSent(t *testing.T) {
	in := some()
	message := encode(t, in)

	var written bytes.Buffer
	w := samples.NewWriter(&written)
	for i := range in {
		require.NoError(t, w.Sample(&in[i]))
	}
	require.NoError(t, w.Close())
	require.True(t, bytes.Equal(message, written.Bytes()), "a Writer and Encode make the same bytes")

	for name, r := range map[string]io.Reader{
		"at once":      bytes.NewReader(message),
		"byte by byte": iotest.OneByteReader(bytes.NewReader(message)),
		"with its end": iotest.DataErrReader(bytes.NewReader(message)),
	} {
		t.Run(name, func(t *testing.T) {
			out, err := read(r, samples.Limits{Samples: 3, Payload: 6 << 20})
			require.NoError(t, err)
			require.Len(t, out, len(in))
			for i := range in {
				require.Equal(t, in[i], out[i].Sample)
				require.NoError(t, out[i].Err)
			}
		})
	}
}

func TestFaultsTakeThePlaceOfTheirSamples(t *testing.T) {
	var b bytes.Buffer
	w := samples.NewWriter(&b)
	in := some()
	require.NoError(t, w.Sample(&in[1]))
	require.NoError(t, w.Fault("ValueError: too dark", "Traceback ...\n  line 3"))
	bad := etl.Sample{Fields: []etl.Field{{Name: "n", Value: etl.Value{DType: etl.Int64, Data: []byte("123")}}}}
	require.ErrorContains(t, w.Sample(&bad), "3 bytes for int64")
	require.NoError(t, w.Fault(strings.Repeat("s", 1<<20), strings.Repeat("t", 1<<20)), "is cut to what may travel")
	require.NoError(t, w.Sample(&in[2]))
	require.NoError(t, w.Close())

	out, err := read(bytes.NewReader(b.Bytes()), samples.Limits{Answer: true})
	require.NoError(t, err)
	require.Len(t, out, 4)
	require.Equal(t, in[1], out[0].Sample)
	var fault *samples.Fault
	require.ErrorAs(t, out[1].Err, &fault)
	require.Equal(t, samples.Fault{Summary: "ValueError: too dark", Traceback: "Traceback ...\n  line 3"}, *fault)
	require.ErrorAs(t, out[2].Err, &fault)
	require.Equal(t, in[2], out[3].Sample)

	_, err = read(bytes.NewReader(b.Bytes()), samples.Limits{})
	require.ErrorIs(t, err, samples.ErrMalformed, "a request has no faults")
}

func TestShortMessagesAreErrors(t *testing.T) {
	in := some()
	in[0].Fields[0].Value.Data = in[0].Fields[0].Value.Data[:100]
	in[1].Fields = in[1].Fields[:2]
	message := encode(t, in)
	for n := range message {
		_, err := read(bytes.NewReader(message[:n]), samples.Limits{})
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%d of %d bytes", n, len(message))
	}
	broken := errors.New("connection reset")
	_, err := read(io.MultiReader(bytes.NewReader(message), iotest.ErrReader(broken)), samples.Limits{})
	require.ErrorIs(t, err, broken, "broken off behind the end mark")
}

func TestMalformedMessagesAreRefused(t *testing.T) {
	field := func(f etl.Field) []etl.Sample { return []etl.Sample{{Key: "k", Fields: []etl.Field{f}}} }
	blob := etl.BytesValue([]byte("abc"))
	patched := func(at int, b ...byte) []byte {
		message := encode(t, field(etl.Field{Name: "f", Value: blob}))
		copy(message[at:], b)
		return message
	}
	const item, description = 4, 4 + 32 + 1
	huge := binary.LittleEndian.AppendUint64(nil, 1<<40)
	for name, c := range map[string]struct {
		message []byte
		limits  samples.Limits
		want    string
	}{
		"another format":       {[]byte("GET / HTTP/1.1"), samples.Limits{}, "begin with"},
		"unknown kind":         {patched(item, 9), samples.Limits{}, "kind 9"},
		"unknown flags":        {patched(item+1, 1), samples.Limits{}, "flags"},
		"unknown flags behind": {patched(item+12, 1), samples.Limits{}, "flags"},
		"many fields":          {patched(item+2, 0xff, 0xff), samples.Limits{}, "65535 fields"},
		"long description":     {patched(item+4, 0, 0, 0, 0x10), samples.Limits{}, "described in"},
		"long key":             {patched(item+8, 0, 0, 2), samples.Limits{}, "key of 131072"},
		"large payload":        {patched(item+24, huge...), samples.Limits{Payload: 1 << 30}, "1099511627776 bytes where"},
		"absurd payload":       {patched(item+24, 0, 0, 0, 0, 0, 0, 0, 0xff), samples.Limits{}, "bytes where"},
		"payload left over":    {patched(item+24, 4), samples.Limits{}, "1 of payload too many"},
		"unknown type":         {patched(description+2, 200), samples.Limits{}, "dtype(200)"},
		"many dimensions":      {patched(description+3, 9), samples.Limits{}, "9 dimensions"},
		"shape that is short":  {patched(description+3, 2), samples.Limits{}, "ends early"},
		"large field":          {patched(description+4, 4), samples.Limits{}, "4 bytes where 3 are left"},
		"number of 3 bytes":    {patched(description+2, byte(etl.Int64)), samples.Limits{}, "3 bytes for int64"},
		"wrong count":          {patched(4+32+1+13+3+16, 2), samples.Limits{}, "counts 2 samples, 1 were there"},
		"end with a body":      {patched(4+32+1+13+3+8, 2), samples.Limits{}, "end mark has a body"},
		"more behind the end":  {append(patched(0), 0), samples.Limits{}, "follow the end mark"},
		"more than allowed":    {encode(t, some()), samples.Limits{Samples: 2}, "more than the 2"},
		"larger than allowed":  {patched(0), samples.Limits{Payload: 2}, "3 bytes where 2"},
		"field twice": {
			encode(t, []etl.Sample{{Fields: []etl.Field{{Name: "f", Value: blob}, {Name: "f", Value: blob}}}}),
			samples.Limits{},
			"two fields",
		},
		"reserved name":    {encode(t, field(etl.Field{Name: "__mask__", Value: blob})), samples.Limits{Answer: true}, "name of a field"},
		"name of a path":   {encode(t, field(etl.Field{Name: "../f", Value: blob})), samples.Limits{Answer: true}, "name of a field"},
		"key of a path":    {encode(t, []etl.Sample{{Key: "a/../../b"}}), samples.Limits{Answer: true}, "can't name a sample"},
		"shape beyond all": {encodeShape(t, 1<<40, 1<<40), samples.Limits{}, "shape"},
		"negative shape":   {encodeShape(t, -1, 3), samples.Limits{}, "shape"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := read(bytes.NewReader(c.message), c.limits)
			require.ErrorIs(t, err, samples.ErrMalformed)
			require.ErrorContains(t, err, c.want)
		})
	}
}

// encodeShape makes a message of an array whose shape was changed after it was checked.
func encodeShape(t *testing.T, rows, columns int64) []byte {
	t.Helper()
	value := etl.Value{DType: etl.Uint8, Shape: []int64{1, 3}, Data: []byte("abc")}
	message := encode(t, []etl.Sample{{Fields: []etl.Field{{Name: "f", Value: value}}}})
	binary.LittleEndian.PutUint64(message[4+32+12:], uint64(rows))
	binary.LittleEndian.PutUint64(message[4+32+20:], uint64(columns))
	return message
}

func TestWhatCanNotTravelIsRefusedWhereItIsSent(t *testing.T) {
	for name, s := range map[string]etl.Sample{
		"long key":       {Key: strings.Repeat("k", samples.MaxKey+1)},
		"many fields":    {Fields: make([]etl.Field, samples.MaxFields+1)},
		"long name":      {Fields: []etl.Field{{Name: strings.Repeat("n", 1<<16)}}},
		"unknown type":   {Fields: []etl.Field{{Name: "f", Value: etl.Value{DType: 99}}}},
		"shape of bytes": {Fields: []etl.Field{{Name: "f", Value: etl.Value{Shape: []int64{1}, Data: []byte("a")}}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := samples.Encode([]etl.Sample{s})
			require.Error(t, err)
		})
	}
}

func TestAMessageWithAHoleIsNotEnded(t *testing.T) {
	in := some()
	w := samples.NewWriter(&failing{after: 1000})
	require.Error(t, w.Sample(&in[0]))
	require.Error(t, w.Sample(&in[2]))
	require.Error(t, w.Fault("x", ""))
	require.Error(t, w.Close())
}

// failing takes some bytes and fails.
type failing struct{ after int }

func (f *failing) Write(b []byte) (int, error) {
	if len(b) > f.after {
		return 0, errors.New("disk full")
	}
	f.after -= len(b)
	return len(b), nil
}
