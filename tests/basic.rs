use evermux::*;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn server() -> (Server, Fingerprint) {
    let id = Identity::self_signed(&["localhost"]).unwrap();
    let pin = id.fingerprint();
    let server =
        Server::bind("127.0.0.1:0".parse().unwrap(), ServerConfig::new(ServerTls::new(id)))
            .unwrap();
    (server, pin)
}

async fn echo(server: Server) {
    while let Some(incoming) = server.accept().await {
        let session = incoming.accept();
        tokio::spawn(async move {
            while let Ok(Some(pipe)) = session.accept_pipe().await {
                tokio::spawn(async move {
                    let (mut r, mut w) = pipe.into_split();
                    while let Some(mut chunk) = r.read_chunk(65536).await.unwrap() {
                        w.write_chunk(&mut chunk).await.unwrap();
                    }
                    w.finish();
                });
            }
        });
    }
}

#[tokio::test]
async fn basic() {
    let (server, pin) = server();
    let addr = server.local_addr().unwrap();
    tokio::spawn(echo(server));
    let client = Client::new(ClientConfig::new(ClientTls::with_pin(pin))).unwrap();
    let session = client.connect(addr).await.unwrap();
    let mut pipe = session.open_pipe("hello").unwrap();
    pipe.write_all(b"hello world").await.unwrap();
    pipe.shutdown().await.unwrap();
    let mut out = vec![];
    pipe.read_to_end(&mut out).await.unwrap();
    assert_eq!(out, b"hello world");

    let pipe = session.open_pipe("bulk").unwrap();
    let (mut r, mut w) = pipe.into_split();
    let n = 64 << 20;
    let wt = tokio::spawn(async move {
        let data: Vec<u8> = (0..n).map(|i: u32| (i.wrapping_mul(2654435761) >> 24) as u8).collect();
        w.write_all(&data).await.unwrap();
        w.finish();
        w
    });
    let mut got = 0u32;
    let mut count = 0;
    while let Some(c) = r.read_chunk(1 << 20).await.unwrap() {
        for b in &c[..] {
            assert_eq!(*b, (got.wrapping_mul(2654435761) >> 24) as u8, "at {got}");
            got += 1;
        }
        if got / (8 << 20) > count {
            count += 1;
            let s = session.clone();
            tokio::spawn(async move { println!("{:?}", s.reconnect().await) });
        }
    }
    assert_eq!(got, n);
    let _w = wt.await.unwrap();
    println!("{:?}", session.stats());
    tokio::time::timeout(Duration::from_secs(5), session.shutdown()).await.unwrap().unwrap();
}
