// Package image reads, checks and edits the image files of a CRIU dump.
//
// CRIU writes a dump as a directory of images: one or two magic numbers, then
// records, each a length and a protobuf message, sometimes followed by raw
// bytes. This package works on that wire format: whatever it does not edit,
// fields that it has never heard of included, stays the same byte for byte.
//
// Its nouns:
//
//   - An [Image] is one decoded file. [Decode] and [Image.Encode] are inverse.
//   - A [View] is a directory that looks like a dump but holds links to its
//     images, so that a restore can be given edited copies of a few of them
//     while the dump itself is never changed.
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
