//! The session's own replies whose text never changes.

use crate::reply::{Code, Reply, Status};

macro_rules! replies {
    ($($(#[$doc:meta])* $name:ident = $code:ident $status:ident $text:literal;)*) => { $(
        $(#[$doc])*
        pub(super) const $name: Reply = Reply::fixed(Code::$code, Status::$status, $text);
    )* };
}

replies! {
    AUTHENTICATED = AUTHENTICATED POLICY "Authentication succeeded"; // RFC 4954 section 6
    ALREADY_AUTHENTICATED = BAD_SEQUENCE INVALID_COMMAND "Already authenticated";
    ALREADY_TLS = BAD_SEQUENCE INVALID_COMMAND "TLS is already active";
    CONTROL_CHARACTERS = SYNTAX_ERROR SYNTAX_ERROR "Control characters, bare CR or LF in a command";
    EACH_RECIPIENT = EACH_RECIPIENT UNDEFINED "A reply for each recipient follows";
    ETRN_SYNTAX = SYNTAX_ERROR SYNTAX_ERROR "Syntax: ETRN node";
    FOREIGN = TRANSACTION_FAILED INVALID_COMMAND "This is a mail server";
    FORGOTTEN = LOCAL_ERROR MAIL_SYSTEM "Local error in processing";
    INTRODUCE_YOURSELF = BAD_SEQUENCE INVALID_COMMAND "Introduce yourself first";
    LINE_TOO_LONG = SYNTAX_ERROR SYNTAX_ERROR "Line too long";
    MALFORMED_BDAT = PARAMETER_ERROR INVALID_PARAMETERS "Syntax: BDAT octets [LAST]";
    MALFORMED_HELO = PARAMETER_ERROR INVALID_PARAMETERS "Give your domain or address literal";
    NOT_AUTHORIZED = MAILBOX_UNAVAILABLE POLICY "Insufficient authorization";
    NOT_IMPLEMENTED = NOT_IMPLEMENTED INVALID_COMMAND "Command not implemented";
    NO_EXPN = NOT_IMPLEMENTED INVALID_COMMAND "EXPN not implemented";
    NO_HELP = HELP UNDEFINED "See RFC 5321";
    /// RFC 4954 section 4. It also rejects mechanisms that are offered only in other sessions, such as those with a certificate.
    NO_MECHANISM = PARAMETER_NOT_IMPLEMENTED INVALID_PARAMETERS "Unrecognized authentication mechanism";
    /// The connection itself has no queue (RFC 1985 section 5.1).
    NO_QUEUE = QUEUE_UNAVAILABLE MAIL_SYSTEM "Unable to queue messages for this node";
    NO_RECIPIENTS = BAD_SEQUENCE INVALID_COMMAND "No valid recipients";
    /// RFC 5321 section 3.5.3: 252 if verification is not offered.
    NO_VRFY = CANNOT_VERIFY UNDEFINED "Cannot VRFY user, but will take a message and attempt delivery";
    /// RFC 6531 section 3.5: 553 5.6.7.
    NON_ASCII = MAILBOX_NAME NON_ASCII_ADDRESS "A non-ASCII address needs SMTPUTF8";
    OPEN_TRANSACTION = BAD_SEQUENCE INVALID_COMMAND "A transaction is already open";
    SEQUENCE = BAD_SEQUENCE INVALID_COMMAND "Bad sequence of commands";
    START_TLS = READY UNDEFINED "Ready to start TLS";
    SYNTAX = PARAMETER_ERROR INVALID_PARAMETERS "Syntax error in arguments";
    TLS_FOR_MECHANISM = ENCRYPTION_REQUIRED ENCRYPTION_NEEDED "This mechanism needs TLS"; // RFC 4954 section 6
    TOO_EARLY = TRANSACTION_FAILED INVALID_COMMAND "Commands were sent too early";
    // These follow the names of the host and the program.
    TIMED_OUT = SERVICE_UNAVAILABLE BAD_CONNECTION "timed out, closing the connection";
    TOO_MANY_BYTES = SERVICE_UNAVAILABLE SYSTEM_BUSY "too many bytes, closing the connection";
    TOO_MANY_COMMANDS = SERVICE_UNAVAILABLE SYSTEM_BUSY "too many commands without mail, closing the connection";
    TOO_MANY_DEFERRED = SERVICE_UNAVAILABLE POLICY "too many deferred recipients, closing the connection";
    TOO_MANY_ERRORS = SERVICE_UNAVAILABLE POLICY "too many errors, closing the connection";
    TOO_MANY_FAILURES = SERVICE_UNAVAILABLE POLICY "too many failed authentications, closing the connection";
    TOO_MANY_LOGINS = SERVICE_UNAVAILABLE POLICY "too many deferred authentications, closing the connection";
    TOO_MANY_MESSAGES = SERVICE_UNAVAILABLE SYSTEM_BUSY "too many messages, closing the connection";
    TOO_MANY_REJECTED = SERVICE_UNAVAILABLE POLICY "too many rejected recipients, closing the connection";
    UNKNOWN = SYNTAX_ERROR INVALID_COMMAND "Command not recognized";
}

/// 354 in its wire format. An intermediate reply has no enhanced code (RFC 2034 section 4), so it is the same in every session.
pub(super) const START_MAIL: &[u8] = b"354 Start mail input; end with <CRLF>.<CRLF>\r\n";
