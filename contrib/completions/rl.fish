# fish completion for rl: copy to ~/.config/fish/completions/rl.fish
# The script itself comes from rl, so that it always fits the rl that is installed.
rl completion fish | source
