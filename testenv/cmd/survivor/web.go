package main

import (
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// web is an ordinary Go web server, which knows nothing of MPTCP: since Go 1.24
// its listener would be one.
func web() error {
	var requests atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("/count", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, requests.Add(1))
	})
	// /stream/N writes N numbered lines, each as soon as the last has gone.
	mux.HandleFunc("/stream/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.PathValue("n"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for i := range n {
			if _, err := fmt.Fprintf(w, "line %09d\n", i); err != nil {
				return
			}
		}
	})
	s := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: time.Minute}
	return s.ListenAndServe()
}
