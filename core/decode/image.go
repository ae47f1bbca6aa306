package decode

import (
	"bytes"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"

	"golang.org/x/image/bmp"
	"golang.org/x/image/webp"

	"github.com/shardstream/shardstream/core/wire"
)

// MaxPixels bounds an image: a few bytes can claim any size, and a picture of 8,192 x 8,192 is no sample.
const MaxPixels = 1 << 26

// largePixels is the size from which an image counts as large: decoding it takes some 60 MB and more.
const largePixels = 1 << 23

// pictures are the formats that are read, told by how a file begins and not by its name.
var pictures = []struct {
	name, magic string // ? in magic stands for any byte
	config      func(io.Reader) (image.Config, error)
	decode      func(io.Reader) (image.Image, error)
	studio      bool // its luma and colours keep to 16..235
}{
	{"JPEG", "\xff\xd8\xff", jpeg.DecodeConfig, jpeg.Decode, false},
	{"PNG", "\x89PNG\r\n\x1a\n", png.DecodeConfig, png.Decode, false},
	{"WebP", "RIFF????WEBP", webp.DecodeConfig, webp.Decode, true},
	{"GIF", "GIF8?a", gif.DecodeConfig, gif.Decode, false},
	{"BMP", "BM", bmp.DecodeConfig, bmp.Decode, false},
}

func begins(src []byte, magic string) bool {
	if len(src) < len(magic) {
		return false
	}
	for i := range len(magic) {
		if magic[i] != '?' && magic[i] != src[i] {
			return false
		}
	}
	return true
}

// asImage makes uint8[height, width, channels], or [height, width] for one channel. Colours are sRGB as
// stored: neither a colour profile nor an orientation that the file may carry is applied, transparent
// pixels keep their colour, and of 16 bits the upper 8 count. Of an animation the first picture counts.
func asImage(channels int) func(*Decoder, []byte, *Scratch, Memory, []Value) error {
	return func(d *Decoder, src []byte, s *Scratch, m Memory, dst []Value) error {
		for i := range pictures {
			p := &pictures[i]
			if !begins(src, p.magic) {
				continue
			}
			c, err := p.config(bytes.NewReader(src))
			if err != nil {
				return d.fail("the %s of %d bytes can't be read: %v", p.name, len(src), err)
			}
			if c.Width < 1 || c.Height < 1 || c.Width > MaxPixels/c.Height {
				return d.fail("the %s claims %d x %d pixels; 1 to %d pixels are possible", p.name, c.Width, c.Height, MaxPixels)
			}
			if s.Large != nil && c.Width*c.Height > largePixels {
				s.Large.Lock()
				defer s.Large.Unlock()
			}
			img, err := p.decode(bytes.NewReader(src))
			if err != nil {
				return d.fail("the %s of %d bytes is damaged: %v", p.name, len(src), err)
			}
			return d.pixels(img, c, channels, p.studio, s, m, &dst[0])
		}
		return d.fail("not an image that can be read (JPEG, PNG, GIF, WebP, BMP): it has %d bytes, which begin with %s", len(src), shown(src[:min(len(src), 8)]))
	}
}

// pixels lays an image out. Its canvas is what the head said; a picture that covers only a part of it
// leaves the rest zero.
func (d *Decoder) pixels(img image.Image, c image.Config, channels int, studio bool, s *Scratch, m Memory, v *Value) error {
	out, err := m.Alloc(int64(c.Width) * int64(c.Height) * int64(channels))
	if err != nil {
		return err
	}
	part := img.Bounds().Intersect(image.Rect(0, 0, c.Width, c.Height))
	if part.Dx() != c.Width || part.Dy() != c.Height {
		clear(out)
	}
	if !part.Empty() {
		paint(out, c.Width, img, part, channels, studio, s)
	}
	*v = Value{DType: wire.Uint8, NDim: 2, Data: out}
	v.Dims[0], v.Dims[1] = int64(c.Height), int64(c.Width)
	if channels > 1 {
		v.NDim, v.Dims[2] = 3, int64(channels)
	}
	return nil
}
