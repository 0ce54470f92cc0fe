use std::{
    fs::{self, File},
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use smtpd_core::{Connection, Envelope};

use super::Options;

/// A message on its way into the Maildir: in `tmp` until it is complete, then in `new`. If it is dropped before that, it is
/// removed.
#[derive(Debug)]
pub(crate) struct Delivery {
    file: File,
    path: PathBuf,
    name: String,
    new: PathBuf,
    delay: Duration,
}

impl Delivery {
    /// Begins with the header fields that belong before a message (RFC 5321 section 4.4).
    pub(crate) fn begin(
        options: &Options,
        session: &Connection,
        peer: SocketAddr,
    ) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.P{}Q{number}", seconds(), std::process::id());
        let path = options.maildir.join("tmp").join(&name);
        let mut file = File::create_new(&path)?;
        let nobody = Envelope::default();
        let envelope = session.envelope().map_or(&nobody, |envelope| envelope);
        let mut header = format!("Return-Path: <{}>\r\n", envelope.sender().as_str());
        for recipient in envelope.recipients() {
            header += &format!("Delivered-To: {}\r\n", recipient.path().as_str());
        }
        let client = session.helo().map_or("", |helo| helo.name().as_str());
        header += &format!(
            "Received: from {client} ([{}])\r\n\tby {} with {};\r\n\t{}\r\n",
            peer.ip(),
            options.hostname,
            session.protocol_word(),
            date(seconds()),
        );
        file.write_all(header.as_bytes())?;
        let new = options.maildir.join("new");
        Ok(Self {
            file,
            path,
            name,
            new,
            delay: options.delay,
        })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Makes the message durable, and returns its name. Do not tell the client before this that it was accepted.
    pub(crate) fn commit(self) -> io::Result<String> {
        std::thread::sleep(self.delay);
        self.file.sync_all()?;
        fs::rename(&self.path, self.new.join(&self.name))?;
        File::open(&self.new)?.sync_all()?;
        Ok(self.name.clone())
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // After a commit, there is nothing left to remove.
        let _ = fs::remove_file(&self.path);
    }
}

fn seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Formats a date for header fields (RFC 5322 section 3.3), in UTC.
fn date(seconds: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb",
    ];
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March, counted from the year 0, have their leap day at their end.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year + u64::from(month > 9);
    format!(
        "{}, {day} {} {year} {:02}:{:02}:{:02} +0000",
        DAYS[days as usize % 7],
        MONTHS[month as usize],
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}
