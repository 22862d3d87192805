// A test program for pods and containers: one static program in an empty image.
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

const usage = `probe id                   prints user and groups
probe wait                 prints user and groups, waits for SIGINT or SIGTERM
probe serve :PORT TEXT     answers every HTTP request with TEXT
probe get URL              prints the body of the answer
probe lookup NAME          prints the addresses of a host name
probe open FILE            opens a file for reading and writing
probe list FOLDER          prints the names in a folder, one per line
probe write FILE TEXT      writes a file`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no command\n%s", usage)
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
	return fmt.Errorf("unknown command or wrong number of arguments\n%s", usage)
}

func identity() error {
	groups, err := os.Getgroups()
	fmt.Printf("uid=%d gid=%d groups=%v\n", os.Getuid(), os.Getgid(), groups)
	return err
}
