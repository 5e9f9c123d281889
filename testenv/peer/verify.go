package peer

import (
	"encoding/binary"
	"fmt"
)

// maxTrailer bounds what may follow the end of a stream.
const maxTrailer = 64 << 10

// lookahead is how many bytes it takes to find out what is wrong.
const lookahead = 4 * wordSize

// part is where in a stream a verifier is.
type part int

const (
	words   part = iota
	length       // the word after the end word
	trailer      // free text, until the connection ends
)

// verifier checks the bytes of one stream as they come. Only the first fault
// is told; what follows is read to find out what kind it is.
type verifier struct {
	code    code
	seq     sequence
	part    part
	trailer []byte
	fault   *Fault

	pending []byte // not yet checked, less than lookahead
	checked uint64 // bytes before pending, as they came
}

func newVerifier(key uint64, d Direction) *verifier {
	return &verifier{code: codeOf(key, d)}
}

// write checks more bytes.
func (v *verifier) write(b []byte) {
	v.pending = append(v.pending, b...)
	v.check(lookahead)
}

// close checks the rest when there will be no more.
func (v *verifier) close() {
	v.check(wordSize)
	if v.part != trailer {
		v.fail(Truncated, fmt.Sprintf("the stream ended without an end mark, after word %d", v.seq.next))
	}
}

// check checks what is pending. To find out where the words begin again in a
// stream that is out of step takes look bytes.
func (v *verifier) check(look int) {
	b := v.pending
	for len(b) >= wordSize || v.part == trailer && len(b) > 0 {
		used := 0
		switch v.part {
		case words:
			used = v.word(b, look)
		case length:
			v.ended(binary.LittleEndian.Uint64(b))
			used = wordSize
		case trailer:
			used = len(b)
			v.trailer = append(v.trailer, b[:min(used, maxTrailer-len(v.trailer))]...)
		}
		if used == 0 {
			break // needs more bytes
		}
		b = b[used:]
		v.checked += uint64(used)
	}
	v.pending = v.pending[:copy(v.pending, b)]
}

// word checks the word that b begins with and returns how many bytes it used.
func (v *verifier) word(b []byte, look int) int {
	w := binary.LittleEndian.Uint64(b)
	n := v.code.number(w)
	switch {
	case n == v.seq.next:
		v.seq.next++
		return wordSize
	case w == v.code.end():
		v.part = length
		return wordSize
	case len(b) < look:
		return 0
	case !near(n, v.seq.next):
		return v.resync(b)
	case v.changed(b):
		v.fail(Corrupt, fmt.Sprintf("bytes %x where word %d was due", b[:wordSize], v.seq.next))
		v.seq.next++
		return wordSize
	}
	v.misplaced(n)
	return wordSize
}

// changed tells whether the word that b begins with stands in the place of the
// next one, and only has another number: things go on behind it.
func (v *verifier) changed(b []byte) bool {
	if len(b) < 2*wordSize {
		return false
	}
	w := binary.LittleEndian.Uint64(b[wordSize:])
	return v.code.number(w) == v.seq.next+1 || w == v.code.end() && v.code.number(binary.LittleEndian.Uint64(b)) > v.seq.next
}

// misplaced records a word that is not the next one.
func (v *verifier) misplaced(n uint64) {
	want := v.seq.next
	switch v.seq.add(n) {
	case gap:
		v.fail(Loss, fmt.Sprintf("word %d came where %d was due", n, want))
	case again:
		v.fail(Duplicate, fmt.Sprintf("word %d came again where %d was due", n, want))
	case late:
		if v.fault != nil && v.fault.Kind == Loss { // now we know better
			v.fault.Kind = Reorder
		}
	case inOrder:
	}
}

// resync looks for a word that does not begin where the last one ended, up to
// the end of a word that has at most seven bytes more than it should.
func (v *verifier) resync(b []byte) int {
	for shift := 1; shift < 2*wordSize && shift+wordSize <= len(b); shift++ {
		w := binary.LittleEndian.Uint64(b[shift:])
		n := v.code.number(w)
		if w == v.code.end() {
			n = v.seq.next + 1 // it comes after at least this word
		} else if !near(n, v.seq.next) || !v.follows(b[shift+wordSize:], n) {
			continue
		}
		due := int64(n-v.seq.next) * wordSize // where word n should be in b
		switch {
		case int64(shift) < due:
			v.fail(Loss, fmt.Sprintf("%d bytes are missing from word %d on", due-int64(shift), v.seq.next))
			return shift
		case int64(shift) > due:
			v.fail(Duplicate, fmt.Sprintf("%d bytes too many where word %d was due", int64(shift)-due, v.seq.next))
		default:
			v.fail(Corrupt, fmt.Sprintf("bytes %x where word %d was due", b[:shift], v.seq.next))
		}
		v.seq.next = max(v.seq.next, n) // those before came, in some form
		return shift
	}
	v.fail(Corrupt, fmt.Sprintf("bytes %x where word %d was due", b[:wordSize], v.seq.next))
	return wordSize
}

// follows tells whether b begins with the word after n, or the end, or is too
// short to tell. A word out of step may look like one by half of its bytes.
func (v *verifier) follows(b []byte, n uint64) bool {
	if len(b) < wordSize {
		return true
	}
	w := binary.LittleEndian.Uint64(b)
	return v.code.number(w) == n+1 || w == v.code.end()
}

// ended checks the length that the sender tells, in words.
func (v *verifier) ended(sent uint64) {
	v.part = trailer
	if lost := v.seq.lost(sent); lost > 0 && v.seq.next <= sent {
		v.fail(Loss, fmt.Sprintf("%d of %d words are missing at the end", lost, sent))
	}
	if v.seq.next > sent {
		v.fail(Corrupt, fmt.Sprintf("%d words came and %d were sent", v.seq.next, sent))
	}
}

func (v *verifier) fail(kind Kind, detail string) {
	if v.fault == nil {
		v.fault = &Fault{Kind: kind, Proto: "tcp", Offset: v.checked, Detail: detail}
	}
}
