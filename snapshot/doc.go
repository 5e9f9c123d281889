// Package snapshot saves a running app as an immutable snapshot.
//
// A snapshot is a directory with CRIU's images of the processes, and a manifest with the
// digest of each file. The manifest also names what the snapshot shares with others: memory
// files, layers of the app's files, and kept files of the host.
//
//	STATE/snapshots/NAME/
//	  manifest.json  manifest.sha256
//	  images/                               CRIU's
//	  connections.bin                       connections inside the app (vem/tcprepair)
//	  sockets.json  network.json            options of sockets, network settings
//	  shm/  dev/                            the app's /dev/shm, and what else it made in /dev
//	STATE/apps/NAME/hibernation/            the same for a held app, without files
//	STATE/memory/SHA256                     memory files, see package memory
//	STATE/layers/SHA256/{tree,files.json}   layers, see package layer
//	STATE/files/ID/usr/lib/...              kept files of the host, see package hostfile
//	RUN/stubs/trees/SHA256                  trees of stubs, see [layer.Stubs]
//
// A snapshot is written aside, brought to the disk, and committed by rename. After that it
// never changes, and [Dir.Open] proves that it did not: it reads every byte of small files,
// and compares size, inode and change time of large ones. A template is made only of a
// snapshot of which every byte was read.
//
// This package knows nothing of networks. What becomes of the sockets of a frozen app is the
// business of the [Sockets] that [Take] is given.
//
// # How an app is saved
//
//	running --freeze--> frozen --hold, dump--> saved --commit--> gone on, or ended
//	   ^                   |                     |
//	   +----- thaw <-------+--------- error -----+
//
// CRIU is started first, and the app is frozen in CRIU's pre-dump notification: CRIU's start
// and its kernel probes take longer than a small dump, and the app runs meanwhile.
//
// The commit is in CRIU's post-dump notification. An error there, a full disk, or the death of
// this process has CRIU let the processes go on. So there is no moment at which the processes
// are gone and the images are not on the disk. To let CRIU "leave running" and to kill the
// processes afterwards would not do: CRIU then removes link remaps that the images need.
//
// A snapshot that lets the app go on copies the app's files while the app is frozen.
//
// # Snapshots of an app that has ended
//
// Such a snapshot has no images: [Manifest].Processes is 0, see [TakeFiles]. What is made of it
// runs the program anew, on the files that were left. It has no pool, since there is nothing to
// hold ready.
//
// # Layers
//
// The app's files are a layer: what it wrote, which was the upper directory of an overlay. Snapshots
// share layers, and clones have them below their own writes: see package layer.
package snapshot
