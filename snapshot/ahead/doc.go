// Package ahead copies the memory of an app while it runs, so that there is little left to be saved while
// it stands still.
//
//	Copy      what there is of each process goes to a file, and the kernel notes what is written
//	          from then on (package track); then what was written meanwhile, once or several times
//	Frozen    the app stands still: which of the copied pages are still as they were copied?
//	          CRIU is made to leave these out (package omit)
//	Complete  they are added to CRIU's images: as mappings of the file, which has become a memory
//	          file, as if the app had been restored from it (memmap.Complete)
//
// Nothing of this is in the app, and nothing has to be put back: a daemon that dies leaves an app that
// runs, and a directory that the next daemon removes.
//
// # What is copied
//
// Private anonymous memory, which is what a restore can map; and only if a process of the app has much of
// it, for little is saved in a moment anyway. Programs that nothing can be mapped for (memmap.MapsNothing) are
// left out. What the app's last snapshot has already, or a process that was copied before and has the same at
// the same addresses, as after fork(2), is not written again.
//
// The first file is kept as a memory file. What is written while it is made is copied once more: if the
// app goes on afterwards, to a second file, whose pages become the dump's own when the app goes on; if
// the app ends, to one that is kept too, so that nothing of it has to be brought to the disk while
// somebody may wait for the app. In both cases the last few pages are CRIU's.
//
// Memory files are kept whole. One of which less than half is still as it was copied, since the app writes
// so much, is dropped: what counts of it becomes the dump's own or, if the app ends, goes to one more file
// before that. What an app writes between that and its end is not looked at any more.
package ahead
