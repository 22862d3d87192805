// What tests run in pods: says who it is, waits, serves, asks. One static program in an empty image.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const usage = `probe id                   user, groups
probe wait                 says who it is, waits for its end
probe serve :PORT TEXT     answers every request with TEXT
probe get URL              prints what it answers
probe lookup NAME          prints its addresses
probe open FILE            opens it for reading and writing
probe list FOLDER          the names in it, one a line
probe write FILE TEXT      writes it`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("what?\n%s", usage)
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGINT, syscall.SIGTERM)
	switch {
	case args[0] == "id":
		return identity()
	case args[0] == "wait":
		if err := identity(); err != nil {
			return err
		}
		<-ended
		return nil
	case args[0] == "serve" && len(args) == 3:
		go func() { <-ended; os.Exit(0) }()
		return http.ListenAndServe(args[1], http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, args[2])
		}))
	case args[0] == "get" && len(args) == 2:
		client := http.Client{Timeout: 10 * time.Second}
		answer, err := client.Get(args[1])
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		_, err = io.Copy(os.Stdout, answer.Body)
		return err
	case args[0] == "lookup" && len(args) == 2:
		addresses, err := net.LookupHost(args[1])
		fmt.Println(addresses)
		return err
	case args[0] == "open" && len(args) == 2:
		file, err := os.OpenFile(args[1], os.O_RDWR, 0)
		if err == nil {
			fmt.Println("opened")
			file.Close()
		}
		return err
	case args[0] == "list" && len(args) == 2:
		entries, err := os.ReadDir(args[1])
		for _, entry := range entries {
			fmt.Println(entry.Name())
		}
		return err
	case args[0] == "write" && len(args) == 3:
		return os.WriteFile(args[1], []byte(args[2]), 0o644)
	}
	return fmt.Errorf("what?\n%s", usage)
}

func identity() error {
	groups, err := os.Getgroups()
	fmt.Printf("uid=%d gid=%d groups=%v\n", os.Getuid(), os.Getgid(), groups)
	return err
}
