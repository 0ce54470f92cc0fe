//! smtpd-core
