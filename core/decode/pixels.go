package decode

import (
	"image"
	"image/color"
)

// row fills a row of four bytes a pixel (red, green, blue, alpha) with row y of an image.
type row func(y int, out []byte)

// paint writes the part of img into out, which is width pixels wide. studio says that luma and colour keep
// to the range of a WebP.
func paint(out []byte, width int, img image.Image, part image.Rectangle, channels int, studio bool, s *Scratch) {
	n := part.Dx()
	at := func(y int) []byte {
		from := (y*width + part.Min.X) * channels
		return out[from : from+n*channels]
	}
	switch img := img.(type) {
	case *image.YCbCr:
		if channels == 1 && !studio {
			for y := range part.Dy() {
				copy(at(y), img.Y[y*img.YStride:][:n])
			}
			return
		}
	case *image.Gray:
		if channels == 1 {
			for y := part.Min.Y; y < part.Max.Y; y++ {
				copy(at(y), img.Pix[img.PixOffset(part.Min.X, y):][:n])
			}
			return
		}
	}
	fill := rows(img, part, studio, s)
	s.rows[0] = sized(s.rows[0], 4*n)
	line := s.rows[0]
	for y := part.Min.Y; y < part.Max.Y; y++ {
		if channels == 4 {
			fill(y, at(y))
			continue
		}
		fill(y, line)
		pack(at(y), line, channels)
	}
}

func sized(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// pack drops the alpha of a row, or makes grey of it with the weights of ITU-R 601 that others use too.
func pack(out, line []byte, channels int) {
	if channels == 3 {
		for i, j := 0, 0; i+3 < len(line) && j+2 < len(out); i, j = i+4, j+3 {
			out[j], out[j+1], out[j+2] = line[i], line[i+1], line[i+2]
		}
		return
	}
	for i := range out {
		p := line[4*i : 4*i+3 : 4*i+3]
		out[i] = uint8((uint32(p[0])*19595 + uint32(p[1])*38470 + uint32(p[2])*7471 + 1<<15) >> 16)
	}
}

// rows knows the layouts that the decoders give; others go pixel by pixel.
func rows(img image.Image, part image.Rectangle, studio bool, s *Scratch) row {
	x := part.Min.X
	switch img := img.(type) {
	case *image.YCbCr:
		return ycbcr(img, nil, studio, s)
	case *image.NYCbCrA:
		return ycbcr(&img.YCbCr, img, studio, s)
	case *image.Gray:
		return func(y int, out []byte) {
			for i, v := range img.Pix[img.PixOffset(x, y):][:len(out)/4] {
				p := out[4*i : 4*i+4 : 4*i+4]
				p[0], p[1], p[2], p[3] = v, v, v, 255
			}
		}
	case *image.Gray16:
		return func(y int, out []byte) {
			in := img.Pix[img.PixOffset(x, y):]
			for i := 0; i < len(out); i += 4 {
				v := in[i/2]
				out[i], out[i+1], out[i+2], out[i+3] = v, v, v, 255
			}
		}
	case *image.RGBA: // opaque, as the decoders make it
		return func(y int, out []byte) { copy(out, img.Pix[img.PixOffset(x, y):]) }
	case *image.NRGBA:
		return func(y int, out []byte) { copy(out, img.Pix[img.PixOffset(x, y):]) }
	case *image.RGBA64: // opaque too
		return func(y int, out []byte) { upper(out, img.Pix[img.PixOffset(x, y):]) }
	case *image.NRGBA64:
		return func(y int, out []byte) { upper(out, img.Pix[img.PixOffset(x, y):]) }
	case *image.Paletted:
		return paletted(img, x)
	default:
		return func(y int, out []byte) {
			for i := 0; i < len(out); i += 4 {
				c, _ := color.NRGBAModel.Convert(img.At(x+i/4, y)).(color.NRGBA)
				out[i], out[i+1], out[i+2], out[i+3] = c.R, c.G, c.B, c.A
			}
		}
	}
}

// upper takes the upper bytes of big-endian numbers of 16 bits.
func upper(out, in []byte) {
	for i := range out {
		out[i] = in[2*i]
	}
}

func paletted(img *image.Paletted, x int) row {
	var table [256][4]byte
	for i, c := range img.Palette[:min(len(img.Palette), 256)] {
		n, ok := c.(color.NRGBA)
		if !ok {
			n, _ = color.NRGBAModel.Convert(c).(color.NRGBA)
		}
		table[i] = [4]byte{n.R, n.G, n.B, n.A}
	}
	return func(y int, out []byte) {
		in := img.Pix[img.PixOffset(x, y):]
		for i := 0; i < len(out); i += 4 {
			copy(out[i:i+4], table[in[i/4]][:])
		}
	}
}
