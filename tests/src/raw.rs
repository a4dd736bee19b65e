//! HTTP by hand, for what no client would send.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Long enough for an answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends these bytes and nothing more, and returns what comes back until the answer's head is complete or the
/// connection ends.
pub async fn request(address: &str, bytes: &str) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(bytes.as_bytes()).await?;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut buffer).await? {
                0 => break,
                read => answer.extend_from_slice(&buffer[..read]),
            }
        }
        std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    match timeout(PATIENCE, exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => format!("no answer: {error}"),
        Err(_) => format!("no answer within {PATIENCE:?}"),
    }
}
