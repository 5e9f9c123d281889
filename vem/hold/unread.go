package hold

func unreadInotify() Verdict {
	return refuse(Other, "inotify instance with events that wait to be read", "try again: the app has to read them first")
}

func unreadFanotify() Verdict {
	return refuse(Other, "fanotify group with events that wait to be read", "try again: the app has to read them first")
}

// ownNamespace refuses a process with a namespace, "net", that is not the app's.
func ownNamespace(name string) Verdict {
	return refuse(Other, name+" namespace of its own",
		"run containers and sandboxes beside the app and not inside: CRIU can't restore such a process")
}
