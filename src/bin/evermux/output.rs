//! Standard output: what other programs read.

use std::fmt;
use std::io::{self, Write};

/// Prints a line. Who has stopped reading (`| head`) ends the program, quietly:
/// there is nobody to tell.
macro_rules! say {
    ($($words:tt)*) => {
        $crate::output::line(format_args!($($words)*))
    };
}

pub fn line(words: fmt::Arguments<'_>) {
    let mut output = io::stdout().lock();
    if writeln!(output, "{words}").and_then(|()| output.flush()).is_err() {
        std::process::exit(crate::exit::Code::Io as i32);
    }
}
