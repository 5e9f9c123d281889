// Package restore makes a saved app's processes again.
//
// [Plan] is pure: it says, from the manifest and the sockets that are held,
// what CRIU gets and what becomes of each socket. [Run] carries a plan out.
//
//	manifest, held ─NewPlan─▶ Plan ─▶ view of the images ─▶ CRIU ─▶ processes, stopped ─▶ they run
//	                                  edited for this place          options of sockets,
//	                                                                 terminals, settings
//
// The dump itself is never changed. CRIU is given a view (image.View), which the plan has
// edited:
//
//   - Each held socket, eventfd and the like is a file that CRIU inherits, so that the processes
//     get the very same open file description back. What CRIU can't save of a socket (options,
//     queues, congestion state) never has to be saved.
//   - Memory is mapped or copied (memory.go), kept files of the host take the place of changed
//     ones (hostfile.go), files of binds are as they are now (bindfile.go).
//   - Open files of /dev/tty are their terminals, which are made before CRIU starts if processes
//     are to have them for their controlling terminal (terminals.go).
//   - Timers and clocks are what they should be now, and calls of poll without a time limit begin
//     again.
//
// What CRIU does not bring back is set in its post-restore notification, when all processes are
// there and none runs. From the end of that notification on a restore is never undone: the
// processes may have read from their sockets.
//
// [Rehearse] does all that Run does before it asks CRIU, and undoes it. [Missing] tells
// beforehand which files of the host would be missing.
package restore
