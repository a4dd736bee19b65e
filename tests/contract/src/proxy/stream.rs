//! Faults in a stream of bytes that the proxy does not understand. A turn is what one read of the component's side
//! gives, which for protocols of request and answer is a request.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{sleep, timeout},
};

use super::{ANSWER, Fault, GARBAGE, PIECES, State, Stream};

/// What is read at once.
const PIECE: usize = 64 << 10;

/// What becomes of the engine's answers.
enum Way {
    Through,
    Lose,
    Halve,
    Slow(Duration),
}

pub(super) async fn serve(state: &Arc<State>, mut near: Box<dyn Stream>) {
    let Ok(Ok(mut far)) = timeout(ANSWER, state.dial()).await else {
        near.reset();
        return;
    };
    let (mut asked, mut answered) = (vec![0; PIECE], vec![0; PIECE]);
    let mut way = Way::Through;
    loop {
        tokio::select! {
            read = near.read(&mut asked) => {
                let count = read.unwrap_or(0);
                if count == 0 {
                    return;
                }
                way = match state.turn() {
                    None => Way::Through,
                    Some(Fault::Stall) => {
                        // Until whoever asked gives up.
                        while near.read(&mut asked).await.is_ok_and(|count| count > 0) {}
                        return;
                    }
                    Some(Fault::Reset | Fault::Refuse(_) | Fault::Echo(_)) => {
                        near.reset();
                        return;
                    }
                    Some(Fault::Garbage) => {
                        let _ = near.write_all(GARBAGE).await;
                        let _ = near.shutdown().await;
                        return;
                    }
                    Some(Fault::LoseAnswer) => Way::Lose,
                    Some(Fault::Truncate) => Way::Halve,
                    Some(Fault::Slow(pause)) => Way::Slow(pause),
                };
                if far.write_all(&asked[..count]).await.is_err() {
                    return;
                }
            }
            read = far.read(&mut answered) => {
                let count = read.unwrap_or(0);
                if count == 0 {
                    let _ = near.shutdown().await;
                    return;
                }
                let answer = &answered[..count];
                match way {
                    Way::Through => {
                        if near.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                    Way::Lose => {
                        near.reset();
                        return;
                    }
                    Way::Halve => {
                        let _ = near.write_all(&answer[..count / 2]).await;
                        let _ = near.shutdown().await;
                        return;
                    }
                    Way::Slow(pause) => {
                        for piece in answer.chunks(count.div_ceil(PIECES)) {
                            if near.write_all(piece).await.is_err() {
                                return;
                            }
                            sleep(pause).await;
                        }
                    }
                }
            }
        }
    }
}
