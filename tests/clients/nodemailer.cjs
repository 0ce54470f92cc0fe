// Sends one message with nodemailer: MODE MECHANISM EXTENSION PORT SENDER RECIPIENT FILE USER SECRET, of which the second and
// third may be empty.
const { createTransport } = require("nodemailer");
const { readFileSync } = require("node:fs");

const [mode, mechanism, extension, port, from, to, path, user, secret] = process.argv.slice(2);

const credentials = {
  "": undefined,
  XOAUTH2: { type: "OAuth2", user, accessToken: secret },
};
const transport = createTransport({
  host: "127.0.0.1",
  port: Number(port),
  secure: mode === "tls",
  requireTLS: mode === "starttls",
  ignoreTLS: mode === "plain",
  tls: { rejectUnauthorized: false },
  auth: mechanism in credentials ? credentials[mechanism] : { user, pass: secret },
  authMethod: mechanism || undefined,
});
const dsn = extension === "DSN" ? { id: "id", return: "headers", notify: "failure" } : undefined;

transport
  .sendMail({ envelope: { from, to, use8BitMime: true, dsn }, raw: readFileSync(path) })
  .then(() => transport.close());
