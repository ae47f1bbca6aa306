package decode_test

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/color"
	"image/color/palette"
	"image/draw"
	"image/gif"
	"image/jpeg"
	"image/png"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/image/bmp"

	"github.com/shardstream/shardstream/core/decode"
	"github.com/shardstream/shardstream/core/wire"
)

// gradient is a picture in which every pixel differs.
func gradient(w, h int, alpha bool) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			c := color.NRGBA{R: uint8(x * 7), G: uint8(y * 5), B: uint8(x + 3*y), A: 255}
			if alpha {
				c.A = uint8(11 * x)
			}
			img.SetNRGBA(x, y, c)
		}
	}
	return img
}

func encoded(t testing.TB, encode func(*bytes.Buffer) error) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, encode(&b))
	return b.String()
}

func TestLosslessImagesAreExact(t *testing.T) {
	colours, alpha := gradient(19, 13, false), gradient(19, 13, true)
	grey := image.NewGray(colours.Rect)
	draw.Draw(grey, grey.Rect, colours, image.Point{}, draw.Src)
	few := image.NewPaletted(colours.Rect, palette.WebSafe)
	draw.Draw(few, few.Rect, colours, image.Point{}, draw.Src)
	deep := image.NewNRGBA64(colours.Rect)
	draw.Draw(deep, deep.Rect, alpha, image.Point{}, draw.Src)
	for name, c := range map[string]struct {
		src  string
		want image.Image
	}{
		"png":          {encoded(t, func(b *bytes.Buffer) error { return png.Encode(b, colours) }), colours},
		"png, alpha":   {encoded(t, func(b *bytes.Buffer) error { return png.Encode(b, alpha) }), alpha},
		"png, grey":    {encoded(t, func(b *bytes.Buffer) error { return png.Encode(b, grey) }), grey},
		"png, palette": {encoded(t, func(b *bytes.Buffer) error { return png.Encode(b, few) }), few},
		"gif":          {encoded(t, func(b *bytes.Buffer) error { return gif.Encode(b, few, nil) }), few},
		"bmp":          {encoded(t, func(b *bytes.Buffer) error { return bmp.Encode(b, colours) }), colours},
	} {
		t.Run(name, func(t *testing.T) {
			requirePixels(t, c.src, c.want, 0)
		})
	}
}

// requirePixels compares all three layouts with an image, whose bounds begin at zero.
func requirePixels(t testing.TB, src string, want image.Image, within int) {
	t.Helper()
	w, h := want.Bounds().Dx(), want.Bounds().Dy()
	rgb, rgba, grey := one(t, "rgb8", src), one(t, "rgba8", src), one(t, "gray8", src)
	for v, shape := range map[*decode.Value][]int64{&rgb: {int64(h), int64(w), 3}, &rgba: {int64(h), int64(w), 4}, &grey: {int64(h), int64(w)}} {
		require.Equal(t, wire.Uint8, v.DType)
		require.Equal(t, shape, v.Dims[:v.NDim])
	}
	worst := 0
	for y := range h {
		for x := range w {
			c := color.NRGBAModel.Convert(want.At(x, y)).(color.NRGBA)
			at := y*w + x
			for i, v := range []uint8{c.R, c.G, c.B, c.A} {
				worst = max(worst, far(v, rgba.Data[4*at+i]))
				if i < 3 {
					require.Equal(t, rgba.Data[4*at+i], rgb.Data[3*at+i])
				}
			}
			luma := (19595*int(c.R) + 38470*int(c.G) + 7471*int(c.B) + 1<<15) >> 16
			worst = max(worst, far(uint8(luma), grey.Data[at])-within) // luma is rounded once more
		}
	}
	require.LessOrEqual(t, worst, within)
}

func far(a, b uint8) int { return max(int(a)-int(b), int(b)-int(a)) }

// TestImagesAsTheUsualLibrariesDecodeThem: each image of testdata lies beside what Pillow (libjpeg-turbo,
// libwebp) made of it.
func TestImagesAsTheUsualLibrariesDecodeThem(t *testing.T) {
	for name, within := range map[string]int{
		"444.jpg": 2, "422.jpg": 3, "420.jpg": 3, "progressive.jpg": 4, "cmyk.jpg": 3, "lossy.webp": 3, "lossless.webp": 0, "alpha.webp": 3,
	} {
		t.Run(name, func(t *testing.T) {
			src, err := os.ReadFile("testdata/" + name)
			require.NoError(t, err)
			f, err := os.Open("testdata/" + strings.Replace(name, ".", "-", 1) + ".png")
			require.NoError(t, err)
			defer f.Close()
			want, err := png.Decode(f)
			require.NoError(t, err)
			requirePixels(t, string(src), want, within)
		})
	}
}

func TestSmallImagesOfEverySize(t *testing.T) {
	for w := 1; w < 20; w++ {
		for _, h := range []int{1, 2, 3, 7, 16, 17} {
			src := encoded(t, func(b *bytes.Buffer) error {
				return jpeg.Encode(b, gradient(w, h, false), &jpeg.Options{Quality: 95})
			})
			v := one(t, "rgb8", src)
			require.Equal(t, []int64{int64(h), int64(w), 3}, v.Dims[:3])
			require.Len(t, v.Data, w*h*3)
		}
	}
}

func TestGIFThatCoversAPartOfItsCanvas(t *testing.T) {
	frame := image.NewPaletted(image.Rect(2, 1, 5, 3), color.Palette{color.NRGBA{200, 100, 50, 255}, color.NRGBA{A: 255}})
	src := encoded(t, func(b *bytes.Buffer) error {
		return gif.EncodeAll(b, &gif.GIF{Image: []*image.Paletted{frame}, Delay: []int{0}, Config: image.Config{Width: 6, Height: 4}})
	})
	v := one(t, "rgb8", src)
	require.Equal(t, []int64{4, 6, 3}, v.Dims[:3])
	for y := range 4 {
		for x := range 6 {
			want := []byte{0, 0, 0}
			if (image.Point{x, y}).In(frame.Rect) {
				want = []byte{200, 100, 50}
			}
			require.Equal(t, want, v.Data[(y*6+x)*3:][:3], "%d, %d", x, y)
		}
	}
}

func TestImagesThatClaimTooMuch(t *testing.T) {
	src := []byte(encoded(t, func(b *bytes.Buffer) error { return png.Encode(b, gradient(4, 4, false)) }))
	bomb := bytes.Clone(src)
	binary.BigEndian.PutUint32(bomb[16:], 60_000)
	binary.BigEndian.PutUint32(bomb[20:], 60_000)
	copy(bomb[29:], checksum(bomb[12:29]))
	_, _, err := decoded(t, "rgb8", string(bomb))
	require.ErrorContains(t, err, "60000 x 60000 pixels")
	_, _, err = decoded(t, "rgb8", string(src[:len(src)-20]))
	require.ErrorContains(t, err, "damaged")
	// A GIF whose head claims what its picture does not have.
	wide := []byte(encoded(t, func(b *bytes.Buffer) error { return gif.Encode(b, gradient(4, 4, false), nil) }))
	binary.LittleEndian.PutUint16(wide[6:], 65535)
	binary.LittleEndian.PutUint16(wide[8:], 65535)
	_, _, err = decoded(t, "gray8", string(wide))
	require.ErrorContains(t, err, "65535 x 65535")
}
