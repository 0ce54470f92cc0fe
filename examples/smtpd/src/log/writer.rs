//! The thread that writes the log. When the file or pipe is full, broken or not read, no other thread waits or fails.

use std::{
    convert::Infallible,
    fs::File,
    io::{self, ErrorKind, Write},
    os::fd::AsFd as _,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

use super::queue::{Batch, Queue};

/// How long lines gather. The first line after a pause is written at once.
const GATHER: Duration = Duration::from_millis(20);

/// How long the start and the end of the program wait for lines to be written.
const FLUSH: Duration = Duration::from_secs(1);

/// Accepts lines: never waits, never fails.
#[derive(Clone, Debug)]
pub(crate) struct Lines(Arc<Queue>);

/// The thread that writes the lines. Dropping this writes the lines that wait, and gives up after a second.
#[derive(Debug)]
pub(crate) struct WriterThread {
    queue: Arc<Queue>,
    /// Disconnected when the thread ends.
    ended: mpsc::Receiver<Infallible>,
}

/// Starts a thread that writes to standard error. `notice` makes a line that says how many lines were lost.
///
/// # Errors
/// Fails when the system refuses another thread.
pub(crate) fn start(notice: fn(u64) -> String) -> io::Result<(Lines, WriterThread)> {
    let queue = Arc::<Queue>::default();
    let (alive, ended) = mpsc::channel();
    let taken = queue.clone();
    let mut output = Output::new(standard_error(), notice);
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || {
            let _alive: mpsc::Sender<Infallible> = alive;
            output.write_all_of(&taken);
        })?;
    let lines = Lines(queue.clone());
    Ok((lines, WriterThread { queue, ended }))
}

/// Standard error without its lock, which a write that hangs would hold against all other threads.
fn standard_error() -> Box<dyn Write + Send> {
    match io::stderr().as_fd().try_clone_to_owned() {
        Ok(own) => Box::new(File::from(own)),
        Err(_) => Box::new(io::stderr()),
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.queue.close();
        // A write that hangs ends with the process.
        let _ = self.ended.recv_timeout(FLUSH);
    }
}

impl Lines {
    /// Queues a line.
    pub(crate) fn push(&self, line: &str) {
        self.0.push(line.as_bytes());
    }

    /// Waits until the lines so far are written, but no longer than a second.
    pub(crate) fn wait_until_written(&self) {
        self.0.wait_until_written(FLUSH);
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

/// Accepts one line per call of `write_all`, which is how `tracing_subscriber` writes.
#[derive(Debug)]
pub(crate) struct Line<'a>(&'a Queue);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file or pipe, and how many lines it did not accept.
struct Output<W> {
    sink: W,
    notice: fn(u64) -> String,
    lost: u64,
    /// Whether the last write has ended within a line.
    is_within_line: bool,
}

impl<W: Write> Output<W> {
    const fn new(sink: W, notice: fn(u64) -> String) -> Self {
        Self {
            sink,
            notice,
            lost: 0,
            is_within_line: false,
        }
    }

    /// Writes everything from the queue until it is closed.
    fn write_all_of(&mut self, queue: &Queue) {
        let mut batch = Batch::default();
        while queue.take(&mut batch) {
            self.write(&batch);
            queue.gather(GATHER);
        }
        self.write_notice();
    }

    /// Writes a batch by one call, after reporting what was lost before it. Counts what cannot be written.
    fn write(&mut self, batch: &Batch) {
        let written = match self.write_notice() {
            true => self.write_some(&batch.lines),
            false => 0,
        };
        self.lost += count_lines(&batch.lines[written..]);
        if batch.lost > 0 {
            self.lost += batch.lost;
            self.write_notice();
        }
    }

    /// Reports lost lines, if there are any. Returns whether nothing is left to report.
    fn write_notice(&mut self) -> bool {
        if self.lost == 0 {
            return true;
        }
        let end_of_line = if self.is_within_line { "\n" } else { "" };
        let text = format!("{end_of_line}{}", (self.notice)(self.lost));
        let is_written = self.write_some(text.as_bytes()) == text.len();
        if is_written {
            self.lost = 0;
        }
        is_written
    }

    /// Writes as much as possible. Returns the number of bytes written.
    fn write_some(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.sink.write(&bytes[written..]) {
                Ok(0) => break,
                Ok(more) => written += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another process may have made a pipe that is shared with it non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(GATHER),
                Err(_) => break,
            }
        }
        if let Some(last) = bytes[..written].last() {
            self.is_within_line = *last != b'\n';
        }
        written
    }
}

/// How many lines end in these bytes.
fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, and has no room for more.
    #[derive(Default)]
    struct Disk {
        room: usize,
        written: Vec<u8>,
        writes: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.writes += 1;
            match self.room.min(bytes.len()) {
                0 => Err(ErrorKind::StorageFull.into()),
                taken => {
                    self.room -= taken;
                    self.written.extend_from_slice(&bytes[..taken]);
                    Ok(taken)
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn output(room: usize) -> Output<Disk> {
        let disk = Disk {
            room,
            ..Disk::default()
        };
        Output::new(disk, |lost| format!("lost {lost}\n"))
    }

    fn batch(lines: &str, lost: u64) -> Batch {
        Batch {
            lines: lines.into(),
            lost,
        }
    }

    #[test]
    fn a_batch_is_one_write() {
        let mut output = output(1000);
        output.write(&batch("a\nb\nc\n", 0));
        assert_eq!(output.sink.written, b"a\nb\nc\n");
        assert_eq!(output.sink.writes, 1);
    }

    #[test]
    fn what_a_full_disk_loses_is_counted_and_said_when_there_is_room_again() {
        for (room, seen, lost) in [
            (0, "", 3),
            (2, "a\n", 2),
            (3, "a\nb\n", 2),
            (4, "a\nb\n", 1),
        ] {
            let mut output = output(room);
            output.write(&batch("a\nb\nc\n", 0));
            output.write(&batch("d\n", 0));
            output.sink.room = 1000;
            output.write(&batch("e\n", 0));
            let lost = lost + 1;
            let expected = format!("{seen}lost {lost}\ne\n");
            assert_eq!(output.sink.written, expected.as_bytes(), "room for {room}");
        }
    }

    #[test]
    fn a_notice_that_is_cut_short_is_written_anew() {
        let mut output = output(0);
        output.write(&batch("a\n", 0));
        output.sink.room = 3;
        output.write(&batch("b\n", 0));
        output.sink.room = 1000;
        output.write(&batch("c\n", 0));
        assert_eq!(output.sink.written, b"los\nlost 2\nc\n");
    }

    #[test]
    fn what_did_not_fit_into_the_queue_is_said_in_its_place() {
        let mut output = output(1000);
        output.write(&batch("a\n", 5));
        output.write(&batch("b\n", 0));
        assert_eq!(output.sink.written, b"a\nlost 5\nb\n");
    }

    #[test]
    fn what_was_lost_last_is_said_at_the_end() {
        let queue = Queue::default();
        queue.push(b"a\n");
        queue.close();
        let mut output = output(1000);
        output.lost = 2;
        output.write_all_of(&queue);
        assert_eq!(output.sink.written, b"lost 2\na\n");
    }

    #[test]
    fn a_line_is_handed_over_whole() {
        let lines = Lines(Arc::default());
        lines.make_writer().write_all(b"a\n").unwrap();
        lines.push("b\n");
        let mut batch = Batch::default();
        assert!(lines.0.take(&mut batch));
        assert_eq!(batch.lines, b"a\nb\n");
    }
}
