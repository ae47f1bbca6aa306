package decode

import "image"

// Colour is stored at half the resolution by most JPEGs. Between its samples we interpolate, as libjpeg does
// by default (each pixel takes three quarters of the nearer sample and one of the farther), and not by
// repeating them: what a model sees here is then what it would see from the usual decoders, to within the
// rounding of the transform.

// ycbcr makes rows of a JPEG's or a lossy WebP's planes, and of the alpha that may lie beside them.
func ycbcr(img *image.YCbCr, alpha *image.NYCbCrA, studio bool, s *Scratch) row {
	n := img.Rect.Dx()
	s.rows[1], s.rows[2] = sized(s.rows[1], n+2), sized(s.rows[2], n+2)
	return func(y int, out []byte) {
		luma := img.Y[y*img.YStride:][:len(out)/4]
		cb := chroma(s.rows[1], img, img.Cb, y)
		cr := chroma(s.rows[2], img, img.Cr, y)
		if studio {
			studioRow(out, luma, cb, cr)
		} else {
			fullRow(out, luma, cb, cr)
		}
		if alpha != nil {
			for i, a := range alpha.A[y*alpha.AStride:][:len(luma)] {
				out[4*i+3] = a
			}
		}
	}
}

// chroma is row y of a colour plane at the resolution of the image; buf has room for it and two more.
func chroma(buf []byte, img *image.YCbCr, plane []byte, y int) []byte {
	n, rows := img.Rect.Dx(), img.Rect.Dy()
	half := (n + 1) / 2
	line := func(c int) []byte { return plane[c*img.CStride:] }
	switch ratio := img.SubsampleRatio; {
	case ratio == image.YCbCrSubsampleRatio444:
		return line(y)[:n]
	case ratio == image.YCbCrSubsampleRatio422 && half > 2:
		widen(buf, line(y)[:half])
	case ratio == image.YCbCrSubsampleRatio420 && half > 2:
		near, far := nearAndFar(y, (rows+1)/2)
		widenBetween(buf, line(near)[:half], line(far)[:half])
	case ratio == image.YCbCrSubsampleRatio440:
		near, far := nearAndFar(y, (rows+1)/2)
		a, b, bias := line(near)[:n], line(far)[:n], 1+uint32(y&1)
		for i := range a {
			buf[i] = uint8((3*uint32(a[i]) + uint32(b[i]) + bias) >> 2)
		}
	default: // rare, or too narrow to interpolate: repeated
		for x := range n {
			buf[x] = plane[img.COffset(x, y)]
		}
	}
	return buf[:n]
}

// nearAndFar are the rows of colour between which row y of the image lies; there are count of them.
func nearAndFar(y, count int) (near, far int) {
	near = y / 2
	if y%2 == 0 {
		return near, max(near-1, 0)
	}
	return near, min(near+1, count-1)
}

// widen doubles a row.
func widen(out, in []byte) {
	last := len(in) - 1
	out[0], out[1] = in[0], uint8((3*uint32(in[0])+uint32(in[1])+2)>>2)
	for i := 1; i < last; i++ {
		v := 3 * uint32(in[i])
		out[2*i], out[2*i+1] = uint8((v+uint32(in[i-1])+1)>>2), uint8((v+uint32(in[i+1])+2)>>2)
	}
	out[2*last], out[2*last+1] = uint8((3*uint32(in[last])+uint32(in[last-1])+1)>>2), in[last]
}

// widenBetween doubles a row that lies between two rows.
func widenBetween(out, near, far []byte) {
	last := len(near) - 1
	far = far[:len(near)]
	before, here := uint32(0), 3*uint32(near[0])+uint32(far[0])
	for i := range near {
		after := here
		if i < last {
			after = 3*uint32(near[i+1]) + uint32(far[i+1])
		}
		if i == 0 {
			before = here
		}
		out[2*i], out[2*i+1] = uint8((3*here+before+8)>>4), uint8((3*here+after+7)>>4)
		before, here = here, after
	}
}

// Coefficients of JPEG's full-range ITU-R 601, by 1<<16, for each value of the colour planes.
var crToR, cbToB, crToG, cbToG = fullTables()

func fullTables() (r, b, gr, gb [256]int32) {
	for i := range 256 {
		v := int32(i) - 128
		r[i], b[i] = (91881*v+1<<15)>>16, (116130*v+1<<15)>>16
		gr[i], gb[i] = -46802*v, -22554*v+1<<15
	}
	return r, b, gr, gb
}

func fullRow(out, luma, cb, cr []byte) {
	cb, cr = cb[:len(luma)], cr[:len(luma)]
	for i, v := range luma {
		y, u, w := int32(v), cb[i], cr[i]
		p := out[4*i : 4*i+4 : 4*i+4]
		p[0] = clip(y + crToR[w])
		p[1] = clip(y + (cbToG[u]+crToG[w])>>16)
		p[2] = clip(y + cbToB[u])
		p[3] = 255
	}
}

// studioRow converts a WebP's colours, which keep to 16..235, with the fixed-point numbers of its format's
// reference decoder.
func studioRow(out, luma, cb, cr []byte) {
	cb, cr = cb[:len(luma)], cr[:len(luma)]
	for i, v := range luma {
		y, u, w := int32(v)*19077>>8, int32(cb[i]), int32(cr[i])
		p := out[4*i : 4*i+4 : 4*i+4]
		p[0] = clip((y + w*26149>>8 - 14234) >> 6)
		p[1] = clip((y - u*6419>>8 - w*13320>>8 + 8708) >> 6)
		p[2] = clip((y + u*33050>>8 - 17685) >> 6)
		p[3] = 255
	}
}

func clip(v int32) uint8 {
	if uint32(v) > 255 {
		return uint8(^(v >> 31)) // 0 below, 255 above
	}
	return uint8(v)
}
