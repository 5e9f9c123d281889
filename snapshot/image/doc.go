// Package image is the ground on which packages read and edit the images of a CRIU dump: the
// format of the files, and what several of these packages need of their content.
//
// CRIU writes a dump as a directory of images: one or two magic numbers, then
// records, each a length and a protobuf message, sometimes followed by raw
// bytes. Whatever is not edited, fields that nobody here has ever heard of included,
// stays the same byte for byte: see package wire.
//
// Its nouns:
//
//   - An [Image] is one decoded file. [Decode] and [Image.Encode] are inverse.
//   - A [Dump] is a directory of images that is open for reading, and a [Task] what it
//     says of one process.
//   - A [View] is a directory that looks like a dump but holds links to its
//     images, so that a restore can be given edited copies of a few of them
//     while the dump itself is never changed.
//
// What is done with images is in packages of their own:
//
//	inspect   what a dump says about the processes in it, for showing
//	verify    whether a dump is whole and agrees with itself
//	absent    connections that CRIU did not see
//	openfile  open and mapped files: what of them is saved, and which CRIU inherits
//	pty       pseudo-terminals
//	timing    clocks, timers, and calls that wait
//	memmap    memory that CRIU maps from files and does not copy
//	guard     the seccomp filter of processes with such memory
//	wire      protobuf messages in their wire format
//
// The format was read in CRIU 4.2 (criu/image.c, criu/image-desc.c,
// criu/include/magic.h, images/*.proto). It has been stable since CRIU 1.6,
// but for the pagemap: up to 4.1 the number of pages is field 2 of an entry,
// from 4.2 on it is field 5. Both are understood.
//
// Nothing here needs a privilege, starts a process or looks at the system
// beyond the files it is given. Every parser may be handed hostile bytes: it
// answers with an error wrapping [wire.ErrMalformed] and allocates no more than a
// small multiple of the size of the file.
package image
