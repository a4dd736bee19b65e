//! The sign-in form.

use maud::{Markup, html};

use super::frame;

pub fn page(next: &str, problem: Option<&str>) -> Markup {
    frame(
        "Sign in",
        html! {
            main.alone #main {
                h1 { "Sign in to pacer" }
                form.stack method="post" action="/signin" {
                    input type="hidden" name="next" value=(next);
                    label for="token" { "Token" }
                    input #token type="password" name="token" autocomplete="current-password" required autofocus
                        aria-describedby="hint" aria-invalid=[problem.map(|_| "true")];
                    @if let Some(problem) = problem { p.problem role="alert" { (problem) } }
                    p #hint .hint { "The value of " code { "auth.token" } " in pacer's configuration." }
                    button.button type="submit" { "Sign in" }
                }
            }
        },
    )
}
