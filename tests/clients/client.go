// Sends one message with a client of Go: LIBRARY MODE MECHANISM EXTENSION PORT SENDER RECIPIENT FILE USER SECRET. LIBRARY is
// net/smtp or go-smtp; MECHANISM and EXTENSION may be empty.
package main

import (
	"crypto/tls"
	"io"
	"log"
	stdlib "net/smtp"
	"os"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"
)

const host = "127.0.0.1"

var unverified = &tls.Config{InsecureSkipVerify: true}

type job struct {
	mode, mechanism, extension, port, sender, recipient, path, user, secret string
}

// What both libraries have in common once there is a session.
type client interface {
	Rcpt(recipient string) error
	Data() (io.WriteCloser, error)
	Quit() error
}

func main() {
	a := os.Args[2:]
	todo := job{a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8]}
	open := map[string]func() (client, error){"net/smtp": todo.withStdlib, "go-smtp": todo.withGoSMTP}[os.Args[1]]
	session, err := open()
	if err == nil {
		err = todo.send(session)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func (j job) send(session client) error {
	message, err := os.ReadFile(j.path)
	if err != nil {
		return err
	}
	if err := session.Rcpt(j.recipient); err != nil {
		return err
	}
	body, err := session.Data()
	if err != nil {
		return err
	}
	if _, err := body.Write(message); err != nil {
		return err
	}
	if err := body.Close(); err != nil {
		return err
	}
	return session.Quit()
}

func (j job) withStdlib() (client, error) {
	session, err := j.dialStdlib()
	if err != nil {
		return nil, err
	}
	if j.mode == "starttls" {
		if err := session.StartTLS(unverified); err != nil {
			return nil, err
		}
	}
	mechanisms := map[string]stdlib.Auth{
		"PLAIN":    stdlib.PlainAuth("", j.user, j.secret, host),
		"CRAM-MD5": stdlib.CRAMMD5Auth(j.user, j.secret),
	}
	if j.mechanism != "" {
		if err := session.Auth(mechanisms[j.mechanism]); err != nil {
			return nil, err
		}
	}
	return session, session.Mail(j.sender)
}

func (j job) dialStdlib() (*stdlib.Client, error) {
	if j.mode != "tls" {
		return stdlib.Dial(host + ":" + j.port)
	}
	conn, err := tls.Dial("tcp", host+":"+j.port, unverified)
	if err != nil {
		return nil, err
	}
	return stdlib.NewClient(conn, host)
}

func (j job) withGoSMTP() (client, error) {
	session, err := j.dialGoSMTP()
	if err != nil {
		return nil, err
	}
	if j.mode == "starttls" {
		if err := session.StartTLS(unverified); err != nil {
			return nil, err
		}
	}
	mechanisms := map[string]sasl.Client{
		"PLAIN":       sasl.NewPlainClient("", j.user, j.secret),
		"LOGIN":       sasl.NewLoginClient(j.user, j.secret),
		"OAUTHBEARER": sasl.NewOAuthBearerClient(&sasl.OAuthBearerOptions{Username: j.user, Token: j.secret}),
		"XOAUTH2":     sasl.NewXoauth2Client(j.user, j.secret),
	}
	if j.mechanism != "" {
		if err := session.Auth(mechanisms[j.mechanism]); err != nil {
			return nil, err
		}
	}
	return session, session.Mail(j.sender, &gosmtp.MailOptions{UTF8: j.extension == "SMTPUTF8"})
}

func (j job) dialGoSMTP() (*gosmtp.Client, error) {
	if j.mode == "tls" {
		return gosmtp.DialTLS(host+":"+j.port, unverified)
	}
	return gosmtp.Dial(host + ":" + j.port)
}
