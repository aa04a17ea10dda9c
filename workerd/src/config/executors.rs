//! `[executors."report.render"]`: what runs the jobs of a kind.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use queue::payload::RESULT_MAX_BYTES;
use queue::{Kind, THROTTLE_MAX};

use super::limits;
use super::raw::{Found, Item, Place, Source, Table, setting};
use super::value::{self, CONCURRENCY_MAX};
use crate::display::exact;
use crate::executor::command::{
    Command, EXIT_DEAD, KILL_GRACE_DEFAULT, Stdout, THROTTLED_DELAY_DEFAULT,
    THROTTLED_DELAY_MIN_MS, Template, Throttled,
};

/// Reads every executor. `folder` is where the file stands.
pub(super) fn read(table: Table<'_, '_>, folder: &Path) -> BTreeMap<Kind, Command> {
    let source = table.source();
    let mut executors = BTreeMap::new();
    for (key, place, table) in table.tables() {
        let kind = Kind::new(&key).map_err(|e| source.wrong(&place, e.to_string())).ok();
        let command = command(table, &place, folder);
        executors.extend(kind.zip(command));
    }
    executors
}

/// Keys of other kinds of executors and of later versions.
const UNSUPPORTED: [&str; 7] = ["memory", "cpu", "pids", "url", "headers", "bearer_token", "retry"];

fn command(mut table: Table<'_, '_>, place: &Place, folder: &Path) -> Option<Command> {
    let source = table.source();
    if !is_command(&mut table, place) {
        return None;
    }
    let argv = argv(&mut table, place, folder);
    let concurrency = setting(table.integer("concurrency", "a whole number"), source, |text| {
        value::count::<CONCURRENCY_MAX>(text)
    });
    let mut time = |key| table.string(key, "a duration such as \"30s\"");
    let timeout = setting(time("timeout"), source, value::duration_from::<1>);
    let kill_grace = setting(time("kill_grace"), source, value::duration_from::<0>);
    let working_dir =
        setting(table.string("working_dir", "the path of a folder"), source, |text| {
            working_dir(text, folder)
        });
    let output_max_bytes =
        setting(table.integer("output_max_bytes", "a whole number"), source, |text| {
            value::count::<RESULT_MAX_BYTES>(text)
        });
    let stdout =
        setting(table.string("stdout", "\"result\" or \"discard\""), source, |text| match text {
            "result" => Ok(Stdout::Result),
            "discard" => Ok(Stdout::Discard),
            _ => Err(format!("{text:?} is not possible; write \"result\" or \"discard\"")),
        });
    let environment = table.list("env", "a list of names such as [\"LANG\"]");
    let environment = environment.map(|list| list.value).unwrap_or_default();
    let environment = environment.iter().filter_map(|item| variable(source, item)).collect();
    let (limits, provider) = limits::of_executor(&mut table);
    let throttled = throttled(&mut table);
    for key in UNSUPPORTED {
        table.unsupported(key);
    }
    table.finish();
    let (program, arguments) = argv?;
    Some(Command {
        program,
        arguments,
        concurrency,
        limits,
        provider,
        timeout,
        environment,
        kill_grace: kill_grace.unwrap_or(KILL_GRACE_DEFAULT),
        working_dir,
        output_max_bytes: output_max_bytes.unwrap_or(RESULT_MAX_BYTES),
        stdout: stdout.unwrap_or(Stdout::Result),
        throttled,
    })
}

const THROTTLED: &str = "throttled = { exit_code = 75, delay = \"30s\" }";

fn throttled(table: &mut Table<'_, '_>) -> Option<Throttled> {
    let source = table.source();
    let (place, mut table) = table.table_and_place("throttled")?;
    let exit_code = table.integer("exit_code", "a whole number");
    if exit_code.is_none() {
        table.missing("exit_code", &place, &format!("is missing; write {THROTTLED}"));
    }
    let exit_code = setting(exit_code, source, |text| match text.parse() {
        Ok(EXIT_DEAD) => Err(format!("{EXIT_DEAD} makes its job dead; write another code")),
        Ok(code @ 1..=255) => Ok(code),
        _ => Err(format!("{text:?} is not possible; write a whole number from 1 to 255")),
    });
    let delay = table.string("delay", "a duration such as \"30s\"");
    let delay = setting(delay, source, |text| {
        let delay = value::duration_from::<THROTTLED_DELAY_MIN_MS>(text)?;
        if delay > THROTTLE_MAX {
            let most = exact(THROTTLE_MAX);
            return Err(format!("{text:?} is too long; write at most \"{most}\""));
        }
        Ok(delay)
    });
    table.finish();
    Some(Throttled { exit_code: exit_code?, delay: delay.unwrap_or(THROTTLED_DELAY_DEFAULT) })
}

/// Checks the key `type`. The rest of another executor is not looked at.
fn is_command(table: &mut Table<'_, '_>, place: &Place) -> bool {
    let source = table.source();
    match table.string("type", "\"command\"") {
        Some(Found { value: "command", .. }) => return true,
        Some(Found { value: "http", place }) => {
            source.wrong(
                &place,
                "http executors are not supported in this version; write \"command\"",
            );
        }
        Some(Found { value, place }) => {
            source.wrong(&place, format!("{value:?} is not an executor; write \"command\""));
        }
        None => table.missing("type", place, "is missing; write type = \"command\""),
    }
    false
}

const ARGV: &str = "a list of texts such as [\"python3\", \"render.py\", \"{payload.report_id}\"]";

fn argv(
    table: &mut Table<'_, '_>,
    place: &Place,
    folder: &Path,
) -> Option<(PathBuf, Vec<Template>)> {
    let source = table.source();
    let Some(Found { value: items, place }) = table.list("argv", ARGV) else {
        table.missing("argv", place, &format!("names no program; write {ARGV}"));
        return None;
    };
    let mut templates = Vec::new();
    for item in &items {
        let Some(text) = item.as_str() else {
            source.wrong(&item.place, format!("this is not text; write {ARGV}"));
            continue;
        };
        match Template::parse(text) {
            Ok(template) => templates.push(template),
            Err(error) => source.wrong(&item.place, error),
        }
    }
    let Some(first) = items.first() else {
        source.wrong(&place, format!("names no program; write {ARGV}"));
        return None;
    };
    let program = program(first, folder).map_err(|e| source.wrong(&first.place, e)).ok()?;
    if templates.first().is_some_and(|template| !template.is_literal()) {
        source.wrong(&first.place, "the program cannot depend on the job; write its name");
        return None;
    }
    Some((program, templates.split_off(1.min(templates.len()))))
}

/// The absolute path of the program: a name is looked up in PATH, a relative path beside the
/// file. A worker without the program must not take jobs for it, so this is checked here.
fn program(item: &Item<'_, '_>, folder: &Path) -> Result<PathBuf, String> {
    let text = item.as_str().unwrap_or_default();
    if text.contains('/') {
        let path = absolute(text, folder)?;
        return match is_executable(&path) {
            true => Ok(path),
            false => Err(format!("{} is not an executable file; correct it", path.display())),
        };
    }
    find_in_path(text).ok_or_else(|| {
        format!("there is no program {text:?} in PATH; install it, or write its whole path")
    })
}

/// The program of this name that a shell would run.
pub(crate) fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut folders = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    folders.find_map(|folder| Some(folder.join(name)).filter(|path| is_executable(path)))
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn absolute(text: &str, folder: &Path) -> Result<PathBuf, String> {
    std::path::absolute(folder.join(text)).map_err(|e| format!("{text:?} is not a path: {e}"))
}

fn working_dir(text: &str, folder: &Path) -> Result<PathBuf, String> {
    let path = absolute(text, folder)?;
    match path.is_dir() {
        true => Ok(path),
        false => Err(format!("{} is not a folder; make it, or correct this", path.display())),
    }
}

fn variable(source: &Source<'_>, item: &Item<'_, '_>) -> Option<String> {
    let error = match item.as_str() {
        None | Some("") => "write the name of an environment variable",
        Some(name) if name.contains(['=', '\0']) => {
            "write only the name of an environment variable; its value is workerd's own"
        }
        Some(name) if name.starts_with("WORKERD_") => {
            "variables of this prefix are not passed on: some hold secrets, the others are set \
             for each job"
        }
        Some(name) => return Some(name.to_owned()),
    };
    source.wrong(&item.place, error);
    None
}

/// The longest time that any of these programs may go on after TERM.
pub(crate) fn longest_kill_grace(executors: &BTreeMap<Kind, Command>) -> Duration {
    executors.values().map(|command| command.kill_grace).max().unwrap_or_default()
}
