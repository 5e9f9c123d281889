// Package move takes apps to other hosts of the installation, with their memory, files and connections.
//
//	the host that has the app                           the target
//
//	ask whether it can come            ──Offer────────▶ look at what it needs
//	a snapshot while it runs           ──(cargo)──────▶ take what is not there yet
//	hibernate it
//	what has changed since             ──(cargo)──────▶
//	begin to give the endpoint away    ──Prepare──────▶ make the app, connected and in no network
//	withdraw the endpoint, save sockets──sockets──────▶ make them, silent; hold them
//	                                   ◀──Received────
//	give the endpoint away: THE COMMIT ──Given────────▶ attach the endpoint, let the sockets talk
//	remove what is left                ◀──Arrived────── wake the app if it ran
//
// An app that sleeps moves without being woken, and one that is stopped without sockets. Each side has an operation of its journal open, [Depart] and
// [Arrive]. Which of the two is finished and which is undone is what the directory says: who owns the
// endpoint. So a daemon that dies, a host that is cut off, and an answer that does not come leave one app,
// never two and never none: see [registrar.Registrar]. An operation that can't ask the directory stays open,
// and is ended when it can, see [Mover.Keep].
//
// Packets that come for the endpoint meanwhile wait at the slow paths of the hosts, see package slowpath.
package move
