//! `device-agent run`: one device on the command line.

use std::{
    io::{self, BufRead, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use protocol::{DeviceId, Topic};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{Agent, Event, Incoming, Qos, clock, config::Options};

/// Lines read ahead of their acknowledgements.
const LINES: usize = 16;

pub(crate) async fn run(
    options: Options,
    device: DeviceId,
    state: PathBuf,
    stdin: bool,
    stop: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let mut config = options.device(device.clone(), options.settings());
    config.state = Some(state);
    let (agent, events) = Agent::start(config)?;
    agent
        .subscribe(Topic::Cmd(device, "#".into()).to_string(), Qos::AtLeastOnce)
        .await?;
    let lines = if stdin { Some(read_lines()?) } else { None };
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = print(events) => ended,
        never = publish(&agent, lines, options.heartbeat) => match never {},
    };
    agent.stop().await;
    ended.map(|()| ExitCode::SUCCESS)
}

/// Ends with the agent, or when standard output takes nothing more.
async fn print(mut events: mpsc::Receiver<Event>) -> anyhow::Result<()> {
    while let Some(event) = events.recv().await {
        if let Event::Message(message) = event {
            write(&message).context("cannot write to standard output")?;
        }
    }
    Ok(())
}

fn write(message: &Incoming) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{} ", message.topic)?;
    out.write_all(&message.payload)?;
    writeln!(out)?;
    out.flush()
}

/// Publishes lines as long as there are any, then heartbeats.
async fn publish(
    agent: &Agent,
    lines: Option<mpsc::Receiver<String>>,
    heartbeat: Duration,
) -> std::convert::Infallible {
    if let Some(mut lines) = lines {
        while let Some(line) = lines.recv().await {
            if let Err(error) = agent.publish("line", line, Qos::AtLeastOnce).await {
                tracing::error!(device = %agent.device(), %error, "line not published");
            }
        }
    }
    let mut beat = interval(heartbeat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for count in 1u64.. {
        beat.tick().await;
        let at = clock::now();
        let payload = serde_json::json!({ "at": at, "count": count }).to_string();
        if let Err(error) = agent.publish("heartbeat", payload, Qos::AtMostOnce).await {
            tracing::error!(device = %agent.device(), %error, "heartbeat not published");
        }
    }
    std::future::pending().await
}

/// Reads on a thread of its own: a read of a terminal cannot be cancelled, and must not hold up the end of the process.
fn read_lines() -> io::Result<mpsc::Receiver<String>> {
    let (sender, lines) = mpsc::channel(LINES);
    let read = move || {
        for line in io::stdin().lock().lines() {
            match line.map(|line| sender.blocking_send(line)) {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(error) => return tracing::error!(%error, "cannot read standard input"),
            }
        }
    };
    std::thread::Builder::new().name("stdin".into()).spawn(read)?;
    Ok(lines)
}
