package target

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/shardstream/shardstream/etl"
)

// BenchmarkInline compares plain reads with reads through a function that costs nothing: what the node itself adds.
func BenchmarkInline(bb *testing.B) {
	const size = 110_000
	b := newBench(bb)
	b.put("o", noise(size))
	b.deploy("same", etl.LevelObject, &fake{object: func(_ context.Context, _ etl.Args, o etl.Object) (*etl.Output, error) {
		data := make([]byte, o.Size)
		_, err := io.ReadFull(o.Body, data)
		return outputOf(bytes.NewReader(data), o.Size), err
	}})
	for name, query := range map[string]string{"plain": "", "etl": "?etl=same", "kept": "?etl=same&cache=true"} {
		bb.Run(name, func(bb *testing.B) {
			bb.SetBytes(size)
			client := fasthttp.Client{ReadBufferSize: 64 << 10}
			request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			request.SetRequestURI(b.url + "/v1/objects/b/o" + query)
			for bb.Loop() {
				if err := client.Do(request, response); err != nil || response.StatusCode() != 200 || len(response.Body()) != size {
					bb.Fatal(err, response.StatusCode())
				}
			}
			client.CloseIdleConnections()
		})
	}
}
