//! The daemon as it comes: it runs the programs that its configuration names.

use std::process::ExitCode;

fn main() -> ExitCode {
    workerd::main()
}
