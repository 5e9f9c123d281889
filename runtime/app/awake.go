package app

// SetAwake notes why an app that is to be hibernated when it is idle is awake. What is
// noted of an app that runs is never out of date: whoever follows its processes notes it.
func (a *App) SetAwake(why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.awake = why
}

// WhyAwake is why a running app is awake; empty if it never sleeps by itself.
func (a *App) WhyAwake() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rec.Now() != Running {
		return ""
	}
	return a.awake
}
