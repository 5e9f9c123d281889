package track_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	windowPages = 4096 // of each thread
	hugePages   = 512  // in a huge one

	// Where windows are. The kernel gives nobody memory there who does not ask for the place: it takes
	// the highest that is free.
	windowsAt  = 1 << 45
	windowsEnd = windowsAt + 3<<32
)

// window is address space in which one thread does what it likes.
type window struct {
	base    unsafe.Pointer
	pages   [windowPages]access
	random  *rand.Rand
	chance  *os.File
	counter *atomic.Uint64
	heap    uintptr // where the program's heap ends; 0: another thread's
}

type access byte

const (
	unmapped access = iota
	writable
	readable
)

// torture changes memory until its stdin ends. It says where its count of operations is.
func torture() {
	seed, err := strconv.ParseUint(os.Args[3], 10, 64)
	must(err)
	runtime.GOMAXPROCS(4)
	counter := &atomic.Uint64{}
	for i := range uint64(3) {
		chance, err := os.Open("/dev/urandom")
		must(err)
		w := &window{random: rand.New(rand.NewPCG(seed, i)), chance: chance, counter: counter}
		w.base = unsafe.Add(unsafe.Pointer(nil), windowsAt+i<<32)
		if i == 0 {
			w.heap, _, _ = unix.Syscall(unix.SYS_BRK, 0, 0, 0)
		}
		go func() {
			runtime.LockOSThread() //nolint:forbidigo // it forks
			for {
				w.step()
				counter.Add(1)
				if w.random.IntN(8) == 0 {
					<-time.After(100 * time.Microsecond) // for others
				}
			}
		}()
	}
	hammered := make([]byte, 64*pageSize)
	go func() {
		for i := 0; ; i++ {
			hammered[i*61%len(hammered)]++
			if i%1024 == 0 {
				runtime.Gosched()
			}
		}
	}()
	fmt.Fprintf(os.Stdout, "%#x\n", uintptr(unsafe.Pointer(counter)))
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// some returns a range of pages, most of the time a short one.
func (w *window) some() (from, to int) {
	n := 1 + w.random.IntN(16)
	if w.random.IntN(16) == 0 {
		n = 1 + w.random.IntN(windowPages/4)
	}
	from = w.random.IntN(windowPages - n)
	return from, from + n
}

// all returns a range of pages from a place on that have all the same access.
func (w *window) all(of access, from, to int) (int, int) {
	for from < to && w.pages[from] != of {
		from++
	}
	end := from
	for end < to && w.pages[end] == of {
		end++
	}
	return from, end
}

func (w *window) at(page int) unsafe.Pointer { return unsafe.Add(w.base, page*pageSize) }

func (w *window) bytes(from, to int) []byte {
	return unsafe.Slice((*byte)(w.at(from)), (to-from)*pageSize)
}

func (w *window) mark(from, to int, a access) {
	for i := from; i < to; i++ {
		w.pages[i] = a
	}
}

// call makes a system call about a range of pages, and tells whether it succeeded.
func (w *window) call(number uintptr, from, to int, args ...uintptr) bool {
	var a [4]uintptr
	copy(a[:], args)
	_, _, errno := unix.Syscall6(number, uintptr(w.at(from)), uintptr(to-from)*pageSize, a[0], a[1], a[2], a[3])
	return errno == 0
}

const readWrite = unix.PROT_READ | unix.PROT_WRITE

func (w *window) mapAnew(from, to int) {
	const fixed = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_FIXED
	if w.call(unix.SYS_MMAP, from, to, readWrite, fixed, ^uintptr(0), 0) {
		w.mark(from, to, writable)
	}
}

func (w *window) unmap(from, to int) {
	if !w.call(unix.SYS_MUNMAP, from, to) {
		panic("munmap")
	}
	w.mark(from, to, unmapped)
}

// operations change memory. Those that are named twice are frequent.
var operations = []func(w *window){
	(*window).write, (*window).write, (*window).write, (*window).write, (*window).fill, (*window).fill,
	(*window).kernelWrites, (*window).otherWrites, (*window).advise, (*window).advise,
	(*window).replace, (*window).protect, (*window).move, (*window).move, (*window).resize,
	(*window).fork, (*window).makeHuge, (*window).brk, (*window).look,
}

func (w *window) step() { operations[w.random.IntN(len(operations))](w) }

// write changes a byte of each page.
func (w *window) write() {
	from, to := w.all(writable, first(w.some()), windowPages)
	for i := from; i < min(to, from+64); i++ {
		w.bytes(i, i+1)[w.random.IntN(pageSize)]++
	}
}

func first(from, _ int) int { return from }

// fill writes all of them.
func (w *window) fill() {
	from, to := w.some()
	from, to = w.all(writable, from, to)
	b, value := w.bytes(from, to), byte(w.random.IntN(256))
	for i := range b {
		b[i] = value
	}
}

func (w *window) look() {
	from, to := w.some()
	sum := byte(0)
	for i := from; i < to; i++ {
		if w.pages[i] != unmapped {
			sum += *(*byte)(w.at(i))
		}
	}
	runtime.KeepAlive(sum)
}

// kernelWrites has the kernel write in the process's name.
func (w *window) kernelWrites() {
	from, to := w.some()
	if from, to = w.all(writable, from, to); from < to {
		b := w.bytes(from, min(to, from+8))
		_, err := unix.Read(int(w.chance.Fd()), b[w.random.IntN(pageSize):])
		must(err)
	}
}

// otherWrites has it write as if another process did.
func (w *window) otherWrites() {
	from, to := w.some()
	from, to = w.all(writable, from, to)
	if from == to {
		return
	}
	b := make([]byte, w.random.IntN((to-from)*pageSize)+1)
	for i := range b {
		b[i] = byte(i + to)
	}
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	remote := []unix.RemoteIovec{{Base: uintptr(w.at(from)), Len: len(b)}}
	_, err := unix.ProcessVMWritev(os.Getpid(), local, remote, 0)
	must(err)
}

func (w *window) advise() {
	const (
		collapse     = 25  // MADV_COLLAPSE
		guardInstall = 102 // MADV_GUARD_INSTALL
		guardRemove  = 103
	)
	advice := []uintptr{
		unix.MADV_DONTNEED, unix.MADV_DONTNEED, unix.MADV_FREE, unix.MADV_COLD, unix.MADV_PAGEOUT,
		unix.MADV_POPULATE_READ, unix.MADV_POPULATE_WRITE, unix.MADV_NOHUGEPAGE, collapse,
		unix.MADV_HUGEPAGE, unix.MADV_DONTFORK, unix.MADV_DOFORK, guardInstall,
	}[w.random.IntN(13)]
	from, to := w.some()
	if advice == collapse {
		from &^= hugePages - 1
		to = from + hugePages
	}
	w.call(unix.SYS_MADVISE, from, to, advice)
	switch advice {
	case unix.MADV_DONTFORK: // a child would have a hole there
		w.call(unix.SYS_MADVISE, from, to, unix.MADV_DOFORK)
	case guardInstall:
		runtime.Gosched()
		w.call(unix.SYS_MADVISE, from, to, guardRemove)
	}
}

// replace unmaps memory, and most of the time maps it again.
func (w *window) replace() {
	from, to := w.some()
	if w.random.IntN(4) == 0 {
		w.unmap(from, to)
		return
	}
	if w.random.IntN(2) == 0 {
		w.unmap(from, to)
	}
	w.mapAnew(from, to)
}

func (w *window) protect() {
	is, mode, becomes := writable, uintptr(unix.PROT_READ), readable
	if w.random.IntN(2) == 0 {
		is, mode, becomes = readable, readWrite, writable
	}
	if from, to := w.all(is, first(w.some()), windowPages); from < to && w.call(unix.SYS_MPROTECT, from, to, mode) {
		w.mark(from, to, becomes)
	}
}

// move moves memory to another place, with or without what is mapped there.
func (w *window) move() {
	from, to := w.some()
	n := to - from
	there := w.random.IntN(windowPages - n)
	if there < to && from < there+n {
		return
	}
	flags := uintptr(unix.MREMAP_MAYMOVE | unix.MREMAP_FIXED)
	keep := w.random.IntN(3) == 0
	if keep {
		flags |= unix.MREMAP_DONTUNMAP
	}
	before := w.pages
	if !w.call(unix.SYS_MREMAP, from, to, uintptr(n)*pageSize, flags, uintptr(w.at(there))) {
		w.unmap(from, to) // it may have been done in part
		w.unmap(there, there+n)
		return
	}
	copy(w.pages[there:there+n], before[from:to])
	if !keep {
		w.mark(from, to, unmapped)
	}
}

// resize makes a mapping shorter or longer in its place.
func (w *window) resize() {
	from, to := w.some()
	if w.pages[from] == unmapped {
		return
	}
	if w.random.IntN(2) == 0 && to-from > 1 {
		if w.call(unix.SYS_MREMAP, from, to, uintptr(to-from-1)*pageSize, 0) {
			w.mark(to-1, to, unmapped)
		}
		return
	}
	end := from // of pages with the same access, behind which there are none
	for end < windowPages && w.pages[end] == w.pages[from] {
		end++
	}
	if end < windowPages && w.pages[end] == unmapped && w.call(unix.SYS_MREMAP, from, end, uintptr(end-from+1)*pageSize, 0) {
		w.pages[end] = w.pages[from]
	}
}

// fork has a child write to what it has in common with us, as we do meanwhile.
func (w *window) fork() {
	from, to := w.all(writable, first(w.some()), windowPages)
	to = min(to, from+64)
	b := w.bytes(from, to)
	child := forkAndWrite(b)
	if child == 0 {
		panic("fork")
	}
	for i := 0; i < len(b); i += 2 * pageSize {
		b[i]++
	}
	_, err := unix.Wait4(int(child), nil, 0, nil)
	must(err)
}

//go:norace
//go:nosplit
func forkAndWrite(b []byte) uintptr {
	child, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return 0
	}
	if child != 0 {
		return child
	}
	for i := 0; i < len(b); i += pageSize {
		b[i]--
	}
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// makeHuge maps a huge page, which others write to.
func (w *window) makeHuge() {
	from := w.random.IntN(windowPages/hugePages) * hugePages
	to := from + hugePages
	w.mapAnew(from, to)
	w.call(unix.SYS_MADVISE, from, to, unix.MADV_HUGEPAGE)
	if w.random.IntN(2) == 0 {
		w.look() // a huge zero page, perhaps
	}
	w.bytes(from, to)[w.random.IntN(hugePages*pageSize)]++
	w.call(unix.SYS_MADVISE, from, to, unix.MADV_NOHUGEPAGE)
}

// brk makes the heap longer or shorter.
func (w *window) brk() {
	if w.heap == 0 {
		return
	}
	end := w.heap + uintptr(w.random.IntN(64))*pageSize
	now, _, _ := unix.Syscall(unix.SYS_BRK, end, 0, 0)
	for at := w.heap; at+pageSize <= now; at += pageSize {
		*(*byte)(unsafe.Add(unsafe.Pointer(nil), at))++
	}
}
