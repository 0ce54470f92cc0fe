//! smtpd-tower
