package samples_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/samples"
)

func FuzzReader(f *testing.F) {
	for _, in := range [][]etl.Sample{nil, some()[2:], {{Key: "k", Seed: 1, Fields: []etl.Field{
		{Name: "a", Value: etl.Value{DType: etl.Float16, Shape: []int64{2}, Data: []byte{1, 2, 3, 4}}},
	}}}} {
		buffers, _, err := samples.Encode(in)
		require.NoError(f, err)
		message := bytes.Join(buffers, nil)
		f.Add(message, false)
		f.Add(message[:len(message)-1], true)
	}
	f.Fuzz(func(t *testing.T, message []byte, answer bool) {
		limits := samples.Limits{Samples: 100, Payload: 1 << 20, Answer: answer}
		results, err := read(bytes.NewReader(message), limits)
		if err != nil {
			return
		}
		// What was taken for whole is said again in the same bytes.
		var again bytes.Buffer
		w := samples.NewWriter(&again)
		for _, r := range results {
			var fault *samples.Fault
			if errors.As(r.Err, &fault) {
				require.NoError(t, w.Fault(fault.Summary, fault.Traceback))
				continue
			}
			require.NoError(t, w.Sample(&r.Sample))
		}
		require.NoError(t, w.Close())
		second, err := read(&again, limits)
		require.NoError(t, err)
		require.Equal(t, results, second)
	})
}
