// The shortest echo server of Go, a goroutine for each connection; io.Copy
// between two TCP sockets is splice(2). Serves 127.0.0.1:PORT until killed.
package main

import (
	"io"
	"log"
	"net"
	"os"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			io.Copy(conn, conn)
			conn.Close()
		}()
	}
}
