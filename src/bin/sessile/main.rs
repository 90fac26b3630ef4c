//! The command: `sessile run`, and `sessile mcp`.

mod engine;
#[cfg(feature = "jupyter")]
mod gateway;
#[cfg(feature = "mcp")]
mod mcp;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs Python on many threads, each with a session of its own.
#[derive(Parser)]
#[command(name = "sessile", version, max_term_width = 100, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Arguments),
    #[cfg(feature = "mcp")]
    Mcp(mcp::Arguments),
}

/// Has the process end without a word when nobody reads what it prints any more, as under `| head`.
fn end_with_the_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload().downcast_ref::<String>();
        if said.is_some_and(|said| said.starts_with("failed printing to stdout")) {
            std::process::exit(141); // as a shell counts what SIGPIPE has ended
        }
        usual(panic);
    }));
}

fn main() -> ExitCode {
    end_with_the_reader();
    let outcome = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        #[cfg(feature = "mcp")]
        Command::Mcp(arguments) => mcp::serve(arguments),
    };
    outcome.unwrap_or_else(|error| {
        // On one line, with all its causes, and without a backtrace: nobody's program is at fault.
        eprintln!("{} {error:#}", console::style("error:").for_stderr().red().bold());
        ExitCode::from(2)
    })
}
