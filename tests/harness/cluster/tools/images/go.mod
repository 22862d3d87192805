module desktopstream/tools/images

go 1.26.0
