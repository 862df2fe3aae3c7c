"""The plugin, in runs of pytest of its own."""


def test_the_mark_makes_the_link_and_a_failure_tells_what_happened(pytester, neighbour):
    pytester.makepyfile(
        f"""
        import pytest

        PING = ["ping", "-q", "-c", "2", "-i", "0.05", "-W", "1"]

        @pytest.mark.faults("loss 100%", seed=11)
        def test_marked(faultwire_link):
            assert faultwire_link.run([*PING, faultwire_link.host]).returncode == 0

        @pytest.mark.faults(up="delay 1ms")
        def test_changed(faultwire_link):
            assert faultwire_link.run([*PING, faultwire_link.host]).returncode == 0
            faultwire_link.set("loss 100%")
            assert faultwire_link.run([*PING, faultwire_link.host]).returncode == 1

        def test_attached(faultwire_attach):
            faultwire_attach("loss 100%", pid={neighbour.pid}, match="icmp", seed=13)
            ping = ["nsenter", "-t", "{neighbour.pid}", "-n", *PING, "{neighbour.host}"]
            assert __import__("subprocess").run(ping).returncode == 0
        """
    )
    result = pytester.runpytest_subprocess("--strict-markers")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "*- faultwire exec -*",
            "seed 11, faults: both 'loss 100%'",
            "up/netem: *: 2 seen, 2 dropped (loss)",
            "run it again with --faultwire-seed 11",
            "*- faultwire attach -*",
            "seed 13, faults: both 'loss 100%'",
            "up/netem: *: * seen, 2 dropped (loss)",
            "run it again with --faultwire-seed 13",
        ]
    )


def test_the_option_wins_over_the_mark(pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.faults("loss 1%", seed=11)
        def test_seed(faultwire_link):
            assert faultwire_link.client.state()["seed"] == 12
        """
    )
    pytester.runpytest_subprocess("--faultwire-seed", "12").assert_outcomes(passed=1)


def test_what_is_wrong_fails_the_test_and_says_why(pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.faults("lost 1%")
        def test_word(faultwire_link):
            pass
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*did you mean*loss*"])
